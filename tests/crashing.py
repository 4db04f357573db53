"A source whose clips do to the decoder what hostile files can; importable, so that a decoding process can have a copy"
import os, signal
import numpy as np
from avmae_nb.data.media import Clip
from avmae_nb.data.sources import Source

class Crashing(Source):
    "Clip 2 crashes, clip 5 never ends"
    native = True
    def __len__(self): return 8
    def name(self, i): return f'{i}.mp4'
    def duration(self, i): return 8.0
    def load(self, i, start, request):
        if i == 2: os.kill(os.getpid(), signal.SIGSEGV)
        while i == 5: pass
        rng = np.random.default_rng([i, int(1000 * (start or 0))])
        return Clip(rng.integers(0, 255, (request.frames, request.short_side, request.short_side, 3), np.uint8), rng.standard_normal(request.samples).astype(np.float32), self.name(i), start=start or 0.0)
