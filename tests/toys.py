"A configuration whose runs take seconds, for tests that need the real model, world and loader"
import dataclasses
import numpy as np
from avmae_nb.config import Audio, Data, LogMel, Mask, Model, Optim, Pretrain, Stack, Train, Video
from avmae_nb.data.labels import Labels
from avmae_nb.data.sources import Source, source
from avmae_nb.data.synthetic import MATERIALS, MOTIONS, open_synthetic
from avmae_nb.tasks import Augment, Classifier, Finetune

STACK = Stack(width=16, layers=2, heads=2, mlp=32)
TOY = Pretrain(video=Video(frames=4, stride=1, fps=12.5, size=16, short_side=16, tubelet=(2, 8, 8), mask=Mask(ratio=0.75)),
               audio=Audio(seconds=0.32, logmel=LogMel(mean=-5.0, std=3.0), mask=Mask(ratio=0.7)),
               model=Model(size='tiny', encoder='mid', encoder_stack=STACK, decoder_stack=STACK, fusion_depth=1, decoder_fusion_depth=1),
               data=Data(clips=32), optim=Optim(base_learning_rate=0.1, warmup_epochs=0.5),
               train=Train(batch=8, steps=16, eval_clips=8, eval_every=8, checkpoint_every=4, log_every=1))

def toy_config(**changes) -> Pretrain:
    "`TOY` with fields changed, nested ones by dots"
    return TOY.replace(**changes)

def rows(history, without=('time', 'clips_per_second')) -> list[dict]:
    "Log rows without what depends on the clock"
    return [{k: v for k, v in r.items() if k not in without} for r in history]

TOY_TUNING = Finetune(video=TOY.video.replace(crop='random', flip=True, short_side=20), audio=TOY.audio, classifier=Classifier(size='tiny', classes=(16,), fusion_layer=1, encoder_stack=STACK, stochastic_depth=0.2),
                      augment=Augment(mixup_video=0.5, mixup_audio=0.5, smoothing=0.1, time_masks=1, time_width=8, frequency_masks=1, frequency_width=16, time_shift=True, scale=(0.9, 1.33), colour=0.8, grey=0.1),
                      data=Data(clips=32), optim=Optim(kind='sgd', base_learning_rate=3.2, weight_decay=0.0, layer_decay=0.75, warmup_epochs=0.5, clip_norm=1.0),
                      train=Train(batch=8, steps=12, eval_clips=8, eval_every=6, checkpoint_every=4, log_every=1))

def toy_tuning(**changes) -> Finetune:
    "`TOY_TUNING` with fields changed, nested ones by dots"
    return TOY_TUNING.replace(**changes)

class Told(Source):
    "The synthetic world with labels of another kind"
    def __init__(self, data, split, labels, of): self.base, self.given, self.of = open_synthetic(data, split), labels, of
    @property
    def labels(self): return self.given
    def __len__(self): return len(self.base)
    def name(self, i): return self.base.name(i)
    def duration(self, i): return self.base.duration(i)
    def load(self, i, start, request):
        clip = self.base.load(i, start, request)
        return dataclasses.replace(clip, label=self.of(i, clip.label))

MOTION, MATERIAL = list(MOTIONS), list(MATERIALS)

@source('told-multi')
def told_multi(data, split):
    "Two classes a clip: its motion and its material; the ninth class has no clip"
    return Told(data, split, Labels('multi', {'class': [*MOTION, *MATERIAL, 'nothing']}), lambda i, y: None if i % 8 == 5 else np.eye(9)[y // 4] + np.eye(9)[4 + y % 4])

@source('told-heads')
def told_heads(data, split):
    "Motion and material as two heads; some clips have no material"
    return Told(data, split, Labels('heads', {'motion': MOTION, 'material': MATERIAL}), lambda i, y: [y // 4, -1 if i % 8 == 5 else y % 4])
