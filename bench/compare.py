"""Figures of a collection of measurements (bench/run.py), the table of targets, and what changed between two collections.

    python bench/compare.py old.json new.json

A figure that was repeated has a 95% interval by the percentile bootstrap, and so has the ratio of two of them: only a ratio whose whole interval is worse than 1 by more than --margin is a regression. Seconds of
different runs are compared after scaling each by the matrix-product peak measured in its own run, so that a machine that is slower today is not taken for slower code. Bytes and FLOPs do not vary: any growth
beyond the margin is one.
"""
import argparse, json, statistics, sys
from dataclasses import dataclass
from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parent))
from timing import bootstrap, resampled

@dataclass(frozen=True)
class Figure:
    "One measured number, better when it is lower (or higher)"
    name: str
    value: float
    unit: str
    repeats: tuple = ()
    higher: bool = False    # is better
    peak: float | None = None   # FLOP/s of the machine in the same run, for times

@dataclass(frozen=True)
class Target:
    "What the project sets out to reach"
    figure: str
    value: float
    higher: bool
    @property
    def text(self) -> str: return f'{"at least" if self.higher else "at most"} {self.value:g}'
    def met(self, value: float) -> bool: return value >= self.value if self.higher else value <= self.value

STEP = 'pre-training, ViT-B, audio and video, batch 4'
TUNE = 'fine-tuning, MBT-B, 3136 + 400 tokens, batch 1'
TARGETS = [Target(f'{STEP}: share of peak', 0.62, True), Target(f'{STEP}: peak memory', 5.7, False), Target(f'{STEP}: compile', 20, False), Target('video, batch 2: x VideoMAE', 1.0, True),
           Target('audio, batch 2: x ViTMAE', 1.0, True), Target(f'{TUNE}, remat block: x plain', 1.5, True), Target(f'{TUNE}, remat block: temporaries', 2, False),
           Target('loader, CPU time of a clip, prepared: x raw', 1.25, True)]

def _step(name: str, r: dict) -> list[Figure]:
    peak = r['peak_flops_per_second']
    times = r['step_seconds_repeats']
    return [Figure(f'{name}: step', r['step_seconds'], 's', tuple(times), peak=peak), Figure(f'{name}: share of peak', r['mfu'], '', tuple(r['step_flops'] / t / peak for t in times), True),
            Figure(f'{name}: peak memory', r['peak_memory_bytes'] / 1e9, 'GB'), Figure(f'{name}: temporaries', r['temporary_bytes'] / 2**30, 'GiB'), Figure(f'{name}: compile', r['compile_seconds'], 's', peak=peak)]

def _peers(r: dict) -> list[Figure]:
    out = []
    for kind, pair in r['pairs'].items():
        (ours, mine), (peer, theirs) = pair['systems'].items()
        out += [Figure(f'{kind}, batch 2: x {peer}', pair['speed']['ratio'], 'x', tuple(pair['speed']['repeats']), True), Figure(f'{kind}, batch 2: memory over that of {peer}', mine['peak_bytes'] / theirs['peak_bytes'], 'x')]
        out += [Figure(f'{kind}, batch 2: share of peak, {n}', s['share_of_peak_own'], '', tuple(s['flops'] / t / pair['gemm_peak'] for t in s['repeats']), True) for n, s in pair['systems'].items()]
    return out

def _finetune(r: dict) -> list[Figure]:
    out = []
    for policy, v in r['variants'].items():
        name = f'{TUNE}, ' + ('plain einsums' if policy == 'plain' else f'remat {policy}')
        if 'speed' in v: out.append(Figure(f'{name}: x plain', v['speed']['ratio'], 'x', tuple(v['speed']['repeats']), True))
        out += [Figure(f'{name}: temporaries', v['temporary_bytes'] / 2**30, 'GiB'), Figure(f'{name}: share of peak', v['share_of_peak'], '', tuple(r['flops'] / t / r['gemm_peak'] for t in v['repeats']), True)]
    return out

def _attention(r: dict) -> list[Figure]:
    speed = lambda kernels, k: tuple(p / t for p, t in zip(kernels['plain']['repeats'], kernels[k]['repeats']))
    each = [(shape, k, speed(kernels, k)) for shape, kernels in r['shapes'].items() for k in kernels if k != 'plain']
    return [Figure(f'attention, {shape}, {k}: x plain', statistics.median(x), 'x', x, True) for shape, k, x in each]

def _parts(r: dict) -> list[Figure]:
    return [Figure(f'part, {name}: share of peak', p['flops'] / p['seconds'] / r['peak'], '', tuple(p['flops'] / t / r['peak'] for t in p['repeats']), True) for name, p in r['parts'].items()]

def _loader(r: dict) -> list[Figure]:
    return [Figure(f'loader, {r["configuration"]}, {n} workers', statistics.median(w['repeats']), 'clips/s', tuple(w['repeats']), True) for n, w in r['workers'].items()]

def _decoding(r: dict) -> list[Figure]:
    name = lambda n: {'PyAV': 'plain PyAV', 'tensors': 'kept tensors'}.get(n, n)
    return [*(Figure(f'loader, CPU time of a clip, {name(n)}', statistics.median(v), 'ms', tuple(v)) for n, v in r['milliseconds'].items()), *(Figure(f'loader, CPU time of a clip, {name(n)}: x raw', v['ratio'], 'x', tuple(v['repeats']), True) for n, v in r['raw_over'].items())]

def _scaling(r: dict) -> list[Figure]:
    points = [(f'step at {axis} {size}', p) for axis, sizes in r['axes'].items() for size, p in sizes.items()]
    return [f for name, p in points for f in (Figure(f'{name}: step', p['step_seconds'], 's', tuple(p['step_seconds_repeats']), peak=p['peak_flops_per_second']), Figure(f'{name}: temporaries', p['temporary_bytes'] / 2**30, 'GiB'))]

def _start(r: dict) -> list[Figure]: return [Figure(f'opening {r["files"]} files: {k.removesuffix(", s")}', v, 's') for k, v in r.items() if k.endswith(', s')]

READ = {'step': lambda r: _step(STEP, r), 'tiny': lambda r: _step('pre-training, tiny', r), 'peers': _peers, 'finetune': _finetune, 'attention': _attention, 'parts': _parts, 'loader': _loader, 'decoding': _decoding, 'scaling': _scaling, 'start': _start}

def figures(collection: dict) -> dict[str, Figure]:
    "All figures of a collection, by name; measurements that failed give none"
    found = [f for name, b in collection['benches'].items() if 'result' in b for f in READ[name](b['result'])]
    return {f.name: f for f in found}

@dataclass(frozen=True)
class Change:
    "A figure then and now; `ratio` is above 1 where it got worse"
    new: Figure
    old: Figure
    ratio: float
    low: float
    high: float
    margin: float
    @property
    def word(self) -> str: return 'WORSE' if self.low > 1 + self.margin else 'better' if self.high < 1 - self.margin else 'same'

def change(new: Figure, old: Figure, margin: float = 0.03, draws: int = 2000) -> Change:
    "How much worse, with the interval of the ratio of medians; without repeats the interval is the ratio"
    slower = old.peak / new.peak if new.peak and old.peak else 1.0   # the machine, not the code
    worse = lambda n, o: o / n if new.higher else n / o / slower
    ratio = worse(new.value, old.value)
    if len(new.repeats) < 3 or len(old.repeats) < 3: return Change(new, old, ratio, ratio, ratio, margin if new.unit != 's' else max(margin, 0.25))   # one time says little
    return Change(new, old, ratio, *bootstrap(lambda rng: worse(resampled(new.repeats, rng), resampled(old.repeats, rng)), draws), margin)

def changes(old: dict, new: dict, margin: float = 0.03) -> list[Change]:
    "Of every figure that both collections have"
    then, now = figures(old), figures(new)
    return [change(now[k], then[k], margin) for k in now if k in then and then[k].value and now[k].value]

def _spread(f: Figure) -> str: return f' ({_number(min(f.repeats))} to {_number(max(f.repeats))})' if f.repeats else ''
def _number(x: float) -> str: return f'{x:.3g}' if abs(x) < 1000 else f'{x:,.0f}'

def changes_table(found: list[Change]) -> str:
    "Regressions first"
    order = {'WORSE': 0, 'better': 1, 'same': 2}
    rows = [f'{c.word:<7}{c.ratio:6.2f} ({c.low:.2f} to {c.high:.2f})  {c.new.name}: {_number(c.old.value)} -> {_number(c.new.value)} {c.new.unit}' for c in sorted(found, key=lambda c: order[c.word])]
    return '\n'.join(['above 1 is worse; times scaled by each run\'s peak', *rows])

def targets_table(collection: dict) -> str:
    "What was set out, what was measured"
    found, rows = figures(collection), []
    for t in TARGETS:
        f = found.get(t.figure)
        rows.append(f'{"not measured" if f is None else "met" if t.met(f.value) else "MISSED":<14}{t.text:<14}' + (f'{_number(f.value)} {f.unit}'.rstrip() if f else '').ljust(12) + t.figure)
    return '\n'.join(rows)

def readme_table(collection: dict) -> str:
    "The targets in Markdown, under a line about the machine"
    found, m = figures(collection), collection['machine']
    measured = lambda f: f'{_number(f.value)} {f.unit}'.rstrip() + _spread(f)
    rows = [('what', 'measured', 'set out', ''), ('---',) * 4, *((t.figure, measured(f) if f else '', t.text, ('met' if t.met(f.value) else 'missed') if f else 'not measured') for t in TARGETS for f in [found.get(t.figure)])]
    about = f'{m["processor"]}, {m["cores"]} cores, jax {m["jax"]}, float32, {m["date"][:10]}: median (and range), the systems of a ratio taking turns; `x` is how many times as fast.'
    return '\n'.join([about, '', *('| ' + ' | '.join(r) + ' |' for r in rows)])

def figures_table(collection: dict) -> str:
    "Every figure"
    return '\n'.join(f'{_number(f.value):>10} {f.unit:<8}{f.name}{_spread(f)}' for f in figures(collection).values())

def read(path) -> dict:
    "A collection from its file"
    try: out = json.loads(Path(path).read_text())
    except (OSError, ValueError) as e: sys.exit(f'{path} cannot be read as JSON: {e}')
    if not isinstance(out, dict) or 'benches' not in out: sys.exit(f'{path} is not a file of bench/run.py: it has no "benches"')
    return out

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('old'); p.add_argument('new'); p.add_argument('--margin', type=float, default=0.03, help='share that is not worth a flag, default 0.03')
    args = p.parse_args()
    found = changes(read(args.old), read(args.new), args.margin)
    print(changes_table(found))
    sys.exit(1 if any(c.word == 'WORSE' for c in found) else 0)

if __name__ == '__main__': main()
