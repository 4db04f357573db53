"""All measurements by one command: JSON, a table with the targets, a plot of cost against size, a comparison with an earlier collection.

    python bench/run.py                                             everything, about 40 minutes of two idle cores; the peers want python bench/peers.py --install once
    python bench/run.py --short                                     fewer repeats and sizes, about 12 minutes
    python bench/run.py --only step finetune --out new.json         some of it; what the file already has of the others stays
    python bench/run.py --compare bench/results.json --out new.json flags what got worse than noise, and ends with status 1 if anything did
    python bench/run.py --fast --out tiny.json                      a minute, to see that it runs

Each measurement is one of the scripts beside this one, run in a process of its own; one that fails is told of and left out. Files: bench/results.json and bench/results.png unless --out says another.
"""
import argparse, json, os, subprocess, sys, tempfile, time
from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parent))
from compare import changes, changes_table, figures_table, read, targets_table
from timing import ROOT, machine

AV = ['pretrain_step.py', '--preset', 'vggsound', 'train.batch=4', 'audio.mask.ratio=0.7']   # the authors' published masks: 0.9 and 0.7
SMALL = ['train.batch=2', 'video.frames=4', 'video.size=32', 'video.short_side=32', 'audio.seconds=0.32']
BENCHES = {   # name: command for a whole run, short, fast; None: left out
    'step': ([*AV, '--repeats', '7'], [*AV, '--repeats', '5'], None),
    'peers': (['peers.py', '--rounds', '7'], ['peers.py', '--rounds', '5', '--only', 'video'], None),
    'finetune': (['finetune_step.py', '--rounds', '5'], ['finetune_step.py', '--rounds', '3', '--only', 'block'], None),
    'tiny': (['pretrain_step.py', '--repeats', '20'], ['pretrain_step.py', '--repeats', '10'], ['pretrain_step.py', '--cache', *SMALL]),
    'attention': (['attention.py', '--rounds', '9'], ['attention.py', '--rounds', '5'], None),
    'parts': (['parts.py'], ['parts.py', '--repeats', '3'], None),
    'loader': (['loader.py', '--seconds', '10'], ['loader.py', '--seconds', '5', '--workers', '0', '2'], None),
    'decoding': (['decoding.py', '--rounds', '9'], ['decoding.py'], None),
    'scaling': (['scaling.py'], ['scaling.py', '--only', 'tokens', 'depth'], ['scaling.py', '--toy', '--only', 'depth']),
    'start': (['start.py', '--files', '20000', '--rows', '40000'], None, None)}
LEVELS = ('whole', 'short', 'fast')

def run_one(command: list[str]) -> dict:
    "What one script found, or why not"
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as d:
        out = Path(d) / 'out.json'
        done = subprocess.run([sys.executable, str(ROOT / 'bench' / command[0]), *command[1:], '--out', str(out)], capture_output=True, text=True, env={**os.environ, 'JAX_PLATFORMS': os.environ.get('JAX_PLATFORMS', 'cpu')})
        took = {'command': 'python bench/' + ' '.join(command), 'seconds': round(time.perf_counter() - begin, 1), 'finished': time.strftime('%Y-%m-%d %H:%M')}
        if done.returncode or not out.exists(): return {**took, 'error': '\n'.join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])}
        return {**took, 'text': done.stdout.strip(), 'result': json.loads(out.read_text())}

def collect(names, level: str, found: dict, save) -> dict:
    "Run them one after the other; kept as soon as each is done"
    for name in names:
        command = BENCHES[name][LEVELS.index(level)]
        if command is None: continue
        print(f'{name}: python bench/{" ".join(command)}', flush=True)
        one = found['benches'][name] = run_one(command)
        print(one.get('text') or f'failed: {one["error"]}', end='\n\n', flush=True)
        save()
    return found

def plot(scaling: dict, path: Path):
    "Seconds of a step, and the floor that its FLOPs set, against each size; compile seconds dotted"
    import matplotlib
    matplotlib.use('agg')
    import matplotlib.pyplot as plt
    names = {'tokens': 'tokens of a clip', 'width': 'width of the encoder', 'depth': 'layers of the encoder', 'batch': 'clips a step', 'devices': 'simulated devices, the same batch'}
    axes = scaling['axes']
    figure, panels = plt.subplots(1, len(axes), figsize=(3.2 * len(axes), 3.2), squeeze=False, constrained_layout=True)
    for panel, (axis, sizes) in zip(panels[0], axes.items()):
        points = list(sizes.values())
        x = [p['tokens'] for p in points] if axis == 'tokens' else [int(s) for s in sizes]
        panel.plot(x, [p['step_seconds'] for p in points], 'o-', label='step')
        panel.fill_between(x, [min(p['step_seconds_repeats']) for p in points], [max(p['step_seconds_repeats']) for p in points], alpha=0.2)
        if axis != 'devices': panel.plot(x, [p['step_flops'] / p['peak_flops_per_second'] for p in points], '--', color='grey', label='FLOPs / peak')
        panel.plot(x, [p['compile_seconds'] for p in points], ':', color='tab:red', label='compile')
        panel.set(xscale='log', yscale='log', xlabel=names[axis], ylabel='seconds')
        panel.set_xticks(x, [str(v) for v in x]); panel.minorticks_off(); panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize='small')
    figure.savefig(path, dpi=110)
    plt.close(figure)

def options(arguments=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--short', dest='level', action='store_const', const='short', default='whole'); p.add_argument('--fast', dest='level', action='store_const', const='fast')
    p.add_argument('--only', nargs='+', choices=list(BENCHES), default=list(BENCHES), metavar='NAME', help=', '.join(BENCHES))
    p.add_argument('--out', type=Path, default=ROOT / 'bench' / 'results.json', help='JSON file; the plot goes beside it')
    p.add_argument('--compare', type=Path, metavar='OLD', help='an earlier file'); p.add_argument('--margin', type=float, default=0.03, help='of the comparison, see bench/compare.py')
    p.add_argument('--table', action='store_true', help='run nothing: tables and plot of --out')
    return p.parse_args(arguments)

def main(arguments=None) -> int:
    args = options(arguments)
    before = read(args.compare) if args.compare else None   # first: --out may be the same file
    found = read(args.out) if args.out.exists() else {'benches': {}}
    if not args.table:
        if 'machine' not in found or set(args.only) == set(BENCHES): found |= {'machine': machine(), 'level': args.level}   # each result names its own too
        collect(args.only, args.level, found, lambda: args.out.write_text(json.dumps(found, indent=1) + '\n'))
    print(f'targets\n{targets_table(found)}\n\nfigures\n{figures_table(found)}')
    if 'result' in found['benches'].get('scaling', {}): plot(found['benches']['scaling']['result'], args.out.with_suffix('.png'))
    if before is None: return 0
    worse = changes(before, found, args.margin)
    print(f'\nagainst {args.compare}\n{changes_table(worse)}')
    return int(any(c.word == 'WORSE' for c in worse))

if __name__ == '__main__': sys.exit(main())
