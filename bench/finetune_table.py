"""What fine-tuning, probes and retrieval show in the synthetic world: mean and 95% t interval over seeds, differences paired by seed, and what they decide.

usage: python bench/finetune_table.py [--seeds 3] [--store runs/recipes] [--out bench/finetune_table.json] [--fast]

Three tables: on `easy` pre-trained against scratch, linear probes against raw means and chance, retrieval against chance; on `hard` both senses against either; on `events` a label for each second, by both and by either.
Stages are those of the recipes: what `avmae run` has trained in the same store is not trained again, and one that was interrupted goes on. --fast: a few steps of everything, to see that it runs."""
import argparse, json, time
from dataclasses import replace
from pathlib import Path
from avmae_nb.devices import compilation_cache
from avmae_nb.recipes.definitions import open_size
from avmae_nb.recipes.measures import Evaluation
from avmae_nb.recipes.recipe import Base, Recipe, Row, Size
from avmae_nb.recipes.run import adjusted, budget, run_recipe
from avmae_nb.recipes.statistics import by_seed, paired, verdict
from avmae_nb.train.checkpoint import library_versions

CHANCE = 100 / 16   # per cent, of 16 classes
DIRECTIONS = ('audio to video R@10', 'video to audio R@10')
BOTH, OURS = ('A', 'V', 'AV'), Row('pre-trained')
TABLES = (Recipe('easy', 'Pre-training, probes and retrieval', 'world `easy`', 'What does pre-training give?', ('AV', 'probe AV', 'raw AV', *DIRECTIONS), (OURS, Row('from scratch', None, columns=('AV',)))),
          Recipe('hard', 'Both senses or one', 'world `hard`', 'Three things at once, one seen and heard, one seen only, one heard only: which is the first?', BOTH, (OURS,), 'hard'),
          Recipe('events', 'Second by second', 'world `events`', 'In which seconds is which thing both seen and heard?', BOTH, (OURS,), 'ave'))

def sizes(fast: bool) -> dict[str, Size]:
    "The tiny size for each table: on `hard` with 4096 labelled clips, 800 steps and 2048 clips held out"
    tiny = open_size('tiny')
    hard = Base(tiny.base('ave').pretrain, tiny.base('vggsound').finetune.replace(**{'data.world': 'hard', 'data.clips': 4096, 'train.steps': 800}))
    tiny = replace(tiny, bases={**tiny.bases, 'hard': hard})
    out = {t.name: replace(tiny, evaluation=Evaluation(clips=2048)) if t.name == 'hard' else tiny for t in TABLES}
    if fast: out = {k: replace(adjusted(s, ['train.steps=4', 'train.batch=4']), evaluation=Evaluation(clips=16, probe_clips=32)) for k, s in out.items()}
    return out

def effects(found, searched: int) -> list[tuple]:   # searched: clips that retrieval is among
    "Name, effect in points and verdict of each difference"
    cell = lambda table, name, row='pre-trained': found[table].shown(row, name)
    above = lambda table, name, line: paired(cell(table, name), dict.fromkeys(cell(table, name), line))
    better = lambda table: by_seed(max, cell(table, 'A'), cell(table, 'V'))
    rows = [('easy: pre-trained - scratch', paired(cell('easy', 'AV'), cell('easy', 'AV', 'from scratch'))), ('easy: linear probe - probe of raw means', paired(cell('easy', 'probe AV'), cell('easy', 'raw AV'))),
            ('easy: linear probe - chance', above('easy', 'probe AV', CHANCE)), *((f'easy: {d} - chance', above('easy', d, 100 * 10 / searched)) for d in DIRECTIONS),
            *((f'{t}: both - the better of sound and picture', paired(cell(t, 'AV'), better(t))) for t in ('hard', 'events'))]
    return [(name, e, verdict(e, 'greater')) for name, e in rows]

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--store', type=Path, default=Path('runs/recipes'))
    p.add_argument('--out', type=Path, default=Path('bench/finetune_table.json'))
    p.add_argument('--fast', action='store_true', help='a few steps of everything')
    args = p.parse_args()
    compilation_cache()
    size, started, command = sizes(args.fast), time.time(), f'python bench/finetune_table.py --seeds {args.seeds}' + ' --fast' * args.fast
    for t in TABLES: print(budget(t, size[t.name], args.seeds, args.store), flush=True)
    found = {t.name: run_recipe(t, size[t.name], range(args.seeds), args.store, command) for t in TABLES}
    decided = effects(found, size['easy'].evaluation.clips)
    print('\n' + '\n\n'.join(map(repr, found.values())) + '\n\npoints, paired by seed\n' + '\n'.join(f'{n:<48}{e!r:<40}{v}' for n, e, v in decided))
    told = {'command': command, 'versions': library_versions(), 'minutes': round((time.time() - started) / 60, 1), 'tables': {t: r.values for t, r in found.items()}, 'stage_minutes': {t: r.facts['minutes'] for t, r in found.items()},
            'effects': {n: {'points': list(e.values), 'mean': e.mean, 'interval': e.interval, 'verdict': v} for n, e, v in decided}}
    args.out.write_text(json.dumps(told, indent=1) + '\n')

if __name__ == '__main__': main()
