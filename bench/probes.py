"""What frozen encoders know: kNN, linear and attentive probes against raw means and chance, and retrieval; several seeds, t intervals.

usage: python bench/probes.py [RUN ...]                                       the given pre-trained run folders, one a seed
       python bench/probes.py --runs FOLDER [--seeds 3] [name=value ...]      trains the preset tiny for each seed, or goes on where it stopped
options: --kinds knn,linear,attentive,raw,retrieval   --clips 2048   --world easy|hard   --out bench/probes.json   --untrained

Probes are fitted on `--clips` training clips and scored on half as many held-out ones; each modality is encoded alone, `video+audio` together.
`--untrained` adds the same encoder with its initial weights: what random features give. Intervals are over seeds (95%, t)."""
import argparse, json, time
from pathlib import Path
import jax
from avmae_nb.config import preset
from avmae_nb.data.sources import open_source
from avmae_nb.recipes.statistics import t_interval
from avmae_nb.train.features import FixedClips
from avmae_nb.train.pretrain import build_model, load, pretrain
from avmae_nb.train.probing import probe_model

def trained(folder: Path, seeds: int, settings) -> list[Path]:
    "Run folders of as many seeds, trained to the end"
    config = preset('tiny').override(*settings)
    for seed in range(seeds):
        print(f'seed {seed}: {folder/f"seed{seed}"}', flush=True)
        if pretrain(config.replace(**{'train.seed': seed}), folder/f'seed{seed}').fit().stopped: raise SystemExit(130)
    return [folder/f'seed{seed}' for seed in range(seeds)]

def measure(model, config, clips, kinds) -> list[dict]:
    "Every number of one encoder as {what, score, chance}"
    report = probe_model(model, *clips, config, kinds, (None, None))
    print(report, flush=True)
    rows = [{'what': f'{"raw" if r.features == "raw" else r.kind}: {r.view}', 'score': r.score, 'chance': r.chance} for table in report.tables.values() for r in table]
    found = report.retrieval
    return rows + ([{'what': f'{d} R@{k}', 'score': found.recall(d, k), 'chance': found.chance(k)} for d in found.ranks for k in (1, 5, 10)] if found else [])

def show(results: list[dict]):
    "The table: a row for each number, mean and interval over seeds"
    print(f'\n{len(results)} runs, mean and 95% t interval\n{"":<30}{"trained":>18}{"untrained":>18}{"chance":>9}')
    cell = lambda v: '{:.3f} +- {:.3f}'.format(*t_interval(v)) if v else ''
    for i, row in enumerate(results[0]['trained']):
        untrained = [r['untrained'][i]['score'] for r in results if r['untrained']]
        print(f'{row["what"]:<30}{cell([r["trained"][i]["score"] for r in results]):>18}{cell(untrained) if not row["what"].startswith("raw") else "":>18}{row["chance"]:>9.3f}')

def against(results: list[dict], kinds):
    "How far each probe lies above the one on raw means, paired by seed"
    print('\nabove the probe on raw means')
    score = lambda r, what: next(x['score'] for x in r['trained'] if x['what'] == what)
    for row in results[0]['trained']:
        kind, _, view = row['what'].partition(': ')
        if kind in kinds and kind != 'raw': print('{:<30}{:+.3f} +- {:.3f}'.format(row['what'], *t_interval([score(r, row['what']) - score(r, f'raw: {view}') for r in results])))

def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('words', nargs='*', metavar='RUN or name=value')
    for name, kind, default in (('--runs', Path, None), ('--seeds', int, 3), ('--clips', int, 2048), ('--kinds', str, 'knn,linear,attentive,raw,retrieval'), ('--world', str, None), ('--out', Path, Path('bench/probes.json'))): args.add_argument(name, type=kind, default=default)
    args.add_argument('--untrained', action='store_true')
    args = args.parse_args()
    settings, folders = [w for w in args.words if '=' in w], [Path(w) for w in args.words if '=' not in w]
    if not folders and not args.runs: raise SystemExit('give run folders, or --runs FOLDER to train some')
    folders, kinds, results, started = folders or trained(args.runs, args.seeds, settings), tuple(args.kinds.split(',')), [], time.time()
    for folder in folders:
        model, config = load(folder)
        if args.world: config = config.replace(**{'data.world': args.world})
        clips = [FixedClips(open_source(config.data, s), config, n) for s, n in (('train', args.clips), ('eval', max(1, args.clips // 2)))]
        print(f'\n{folder}', flush=True)
        row = {'run': folder.name, 'seed': config.train.seed, 'trained': measure(model, config, clips, kinds), 'untrained': []}
        if args.untrained: row['untrained'] = measure(build_model(config), config, clips, kinds)
        results.append(row)
        args.out.write_text(json.dumps({'config': config.to_dict(), 'clips': args.clips, 'jax': jax.__version__, 'minutes': round((time.time() - started) / 60, 1), 'runs': results}, indent=1) + '\n')
    show(results)
    if 'raw' in kinds: against(results, kinds)

if __name__ == '__main__': main()
