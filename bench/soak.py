"""Does memory grow? A loader (real clips among damaged ones, decoded beside it) and a tiny training for half an hour; the viewer's kernel side through thousands of interactions.

    python bench/soak.py --minutes 30 --out bench/soak.json
    python bench/soak.py --minutes 30 --checkpoint-every 100 --out more.json
    python bench/soak.py --what viewer --moves 3000 --out bench/soak_viewer.json

The slope is that of a straight line through resident memory (this process and its children) over the time after the first fifth, and over the second half, in MB an hour, with its standard error. The page's side of the viewer: bench/viewer.py."""
import argparse, json, os, random, sys, tempfile, time
from pathlib import Path
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
import numpy as np

def resident() -> tuple[float, float]:
    "MB of this process, and of its children"
    page, own, children = os.sysconf('SC_PAGE_SIZE') / 1e6, 0.0, 0.0
    for p in Path('/proc').iterdir():
        if not p.name.isdigit(): continue
        try: parent, pages = int((p / 'stat').read_text().rpartition(')')[2].split()[1]), int((p / 'statm').read_text().split()[1])
        except (OSError, ValueError): continue
        if int(p.name) == os.getpid(): own = pages * page
        elif parent == os.getpid(): children += pages * page
    return own, children

def line(at, values) -> tuple[float, float]:
    "MB an hour and its standard error"
    t, y = np.asarray(at, float) / 3600, np.asarray(values, float)
    a, b = np.polyfit(t, y, 1)
    error = np.sqrt(((y - (a * t + b)) ** 2).sum() / max(len(t) - 2, 1) / ((t - t.mean()) ** 2).sum())
    return round(float(a), 2), round(float(error), 2)

def slope(at, values) -> dict:
    "MB an hour after the first fifth and in the second half, and what was seen"
    at, values = np.asarray(at, float), np.asarray(values, float)
    later = lambda part: at >= at[0] + part * (at[-1] - at[0])
    y, ((a, error), (half, half_error)) = values[later(0.2)], (line(at[later(p)], values[later(p)]) for p in (0.2, 0.5))
    return {'MB an hour': a, 'standard error': error, 'second half, MB an hour': half, 'second half, standard error': half_error,
            'first MB': round(float(y[0]), 1), 'last MB': round(float(y[-1]), 1), 'most MB': round(float(values.max()), 1), 'samples': len(y)}

def folder_of_clips(folder: Path, good: int = 24, bad: int = 8):
    "Copies of the real clips, some of them damaged"
    import mutators
    from avmae_nb.data.sources import clips_folder
    clips = sorted(clips_folder().glob('*.mp4'))
    for k in range(good + bad):
        data, r = clips[k % 2].read_bytes(), random.Random(k)
        (folder / f'{k}.mp4').write_bytes(data if k < good else mutators.mutate(data, r)[1])

class Sample:
    "Memory every `seconds`; stops the run when its time is over"
    shows_progress = True
    def __init__(self, minutes, seconds): self.end, self.seconds, self.rows, self.next = time.monotonic() + 60 * minutes, seconds, [], 0.0
    def at_step(self, learner, step):
        now = time.monotonic()
        if now >= self.next: self.rows.append((now, *resident(), step)); self.next = now + self.seconds
        if now >= self.end: learner.stopped = 'the end of the soak'

def training(minutes: float, every: int) -> dict:
    from toys import toy_config
    from avmae_nb.train.pretrain import pretrain
    with tempfile.TemporaryDirectory() as d:
        (Path(d) / 'clips').mkdir(); folder_of_clips(Path(d) / 'clips')
        config = toy_config(**{'data.source': 'folder', 'data.path': f'{d}/clips', 'data.clips': None, 'train.steps': 10**6, 'train.log_every': 10, 'train.eval_every': 200, 'train.checkpoint_every': every})
        sample = Sample(minutes, max(1.0, minutes * 60 / 200))
        learner = pretrain(config, Path(d) / 'run', callbacks=[sample]).fit()
        at, own, children, steps = map(list, zip(*sample.rows))
        return {'minutes': minutes, 'steps': steps[-1], 'checkpoints': steps[-1] // every, 'clips': steps[-1] * config.train.batch, 'bad clips': {k: int(v) for k, v in learner.loader.report.counts.items()}, 'training process': slope(at, own), 'decoding process': slope(at, children)}

def viewing(moves: int) -> dict:
    "Ratio, painting and clip changes through the same function that the page calls"
    from avmae_nb.config import Data, preset
    from avmae_nb.train.pretrain import build_model
    from avmae_nb.view.viewer import view
    config = preset('tiny').replace(data=Data(clips=256))
    viewer = view(build_model(config), config)
    at, own, r, clips = [], [], random.Random(0), len(viewer.explorer.source)
    for k in range(moves):
        hide = {m: h.replace(ratio=r.choice((0.3, 0.5, 0.7, 0.9)), seed=r.randrange(1000)) for m, h in viewer.state.hide.items()}
        viewer.explorer.ask(viewer.state.replace(clip=r.randrange(clips), hide=hide))
        if k % max(1, moves // 200) == 0: at.append(time.monotonic()); own.append(resident()[0])
    return {'moves': moves, 'seconds': round(at[-1] - at[0]), 'kernel': slope(at, own), 'MB a thousand moves': round(float(np.polyfit(np.arange(len(own))[len(own) // 5:] * moves / len(own), own[len(own) // 5:], 1)[0]) * 1000, 2)}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--what', choices=('training', 'viewer'), default='training'); p.add_argument('--minutes', type=float, default=30); p.add_argument('--moves', type=int, default=3000); p.add_argument('--checkpoint-every', type=int, default=500, help='steps; 500: some 15 to 30 checkpoints in half an hour on two cores; a run takes ten on its own'); p.add_argument('--out', type=Path)
    args = p.parse_args()
    out = training(args.minutes, args.checkpoint_every) if args.what == 'training' else viewing(args.moves)
    print(json.dumps(out, indent=1))
    if args.out: args.out.write_text(json.dumps(out, indent=1) + '\n')

if __name__ == '__main__': main()
