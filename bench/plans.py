"""Every paper-size configuration compiled for TPU slices, with no TPU; done cases are skipped, so it can be stopped and started again.

  python bench/plans.py --list                     the cases
  python bench/plans.py                            the ones that have no result yet, most wanted first
  python bench/plans.py --only vggsound:v3:4x4     those whose name contains the words
  python bench/plans.py --recipes                  every different step of every recipe, for v3:4x4 (with --list, --only, --limit too)
  python bench/plans.py --table                    only gather the results of bench/plans/ in bench/plans.json, which nbs/plan/04_table.ipynb shows

A case takes half a minute to two minutes of two cores. Wants avmae_nb[tpu-plan].
"""
import argparse, json, sys, time
from pathlib import Path
from typing import NamedTuple
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS, SUMMARY = ROOT / 'bench' / 'plans', ROOT / 'bench' / 'plans.json'

BF16 = {'pretrain': 'model.dtype=bfloat16', 'finetune': 'classifier.dtype=bfloat16'}
WANTED = [('vggsound', []), ('vggsound', ['model.size=L']), ('vggsound-finetune', []), ('audioset-finetune', []), ('audioset', []),
          ('vggsound-finetune', ['train.batch=128']), ('vggsound-finetune', ['classifier.size=L', 'classifier.fusion_layer=16']),
          ('vggsound-released', []), ('audioset-released', []), ('vggsound-finetune-released', []), ('audioset-finetune-released', []), ('audioset-finetune-audio', []), ('epic-finetune', []), ('ave-finetune', [])]
SLICES = ['v3:4x4', 'v5e:4x4', 'v4:2x2x4', 'v6e:2x4', 'v5p:2x2x2', 'tpu7x:2x2x1']

class Case(NamedTuple):
    "One configuration for one slice"
    name: str        # with words to pick it by
    shown: str       # in the table
    file: str        # of its result, in bench/plans
    config: object   # a preset's name or a configuration
    settings: list
    machine: str
    @property
    def path(self): return RESULTS / f'{self.file}.json'

def as_file(*words): return '_'.join(words).replace(':', '_').replace('=', '-')

def recipe_cases():
    "Each step that some recipe trains at paper size, for the paper's machine, named after the first such recipe"
    from avmae_nb.recipes.definitions import RECIPES, open_size
    from avmae_nb.recipes.estimate import programs
    seen, size, machine = set(), open_size('paper'), SLICES[0]
    for recipe in RECIPES.values():
        for key, e in programs(recipe, size).items():
            if key not in seen: yield Case(':'.join(['recipe', recipe.name, e.named, key, machine]), f'{recipe.name}: {e.named}', as_file('recipe', key, machine), e.config, [], machine)
            seen.add(key)

def cases():
    "The presets: the paper's machine in both precisions first, then the others in bfloat16"
    for machine in SLICES:
        for preset, settings in WANTED:
            for dtype in ('float32', 'bfloat16') if machine == SLICES[0] else ('bfloat16',):
                more = [BF16['finetune' if 'finetune' in preset else 'pretrain']] if dtype == 'bfloat16' else []
                name = ':'.join([preset, *(s.split('.')[-1] for s in settings), dtype, machine])
                yield Case(name, preset, as_file(name), preset, settings + more, machine)

def run(case):
    "One case, written when it is done"
    from avmae_nb.config import ConfigError
    from avmae_nb.plan.ahead import PlanError
    from avmae_nb.plan.plan import plan, plan_dict, read_config
    started = time.time()
    config = read_config(case.config)[1] if isinstance(case.config, str) else case.config
    try: found = plan_dict(plan(config.override(*case.settings), case.machine))
    except PlanError as e: return {'error': str(e)}   # not kept: it may work another time
    except ConfigError as e: found = {'error': str(e)}
    RESULTS.mkdir(exist_ok=True)
    case.path.write_text(json.dumps({**found, 'name': case.shown, 'case': case.name, 'settings': case.settings, 'seconds': round(time.time() - started, 1)}, indent=1) + '\n')
    return found

def line(found):
    if 'error' in found: return found['error']
    c, i = found['compiled'], found['compiled_instead']
    gib = lambda n: f'{n / 2**30:.2f} GiB'
    return (f'fits: {gib(c["needs"])}' if found['fits'] else f'needs {gib(c["needs"])} of {gib(c["limit"])}' + (f'; fits with {found["instead"]}: {gib(i["needs"])}' if i else '; nothing found')) + f', {c["seconds"]:.0f} s'

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--list', action='store_true')
    p.add_argument('--table', action='store_true')
    p.add_argument('--recipes', action='store_true', help='the steps of the recipes instead of the presets')
    p.add_argument('--only', nargs='*', default=[], metavar='WORDS')
    p.add_argument('--limit', type=int, default=1000, help='cases to run')
    args = p.parse_args()
    todo = [c for c in (recipe_cases() if args.recipes else cases()) if not args.only or any(w in c.name for w in args.only)]
    if args.list: return print('\n'.join(f'{"done" if c.path.exists() else "    "} {c.name}' for c in todo))
    if not args.table:
        for c in [c for c in todo if not c.path.exists()][:args.limit]:
            print(c.name, flush=True)
            print('   ', line(run(c)), flush=True)
    done = [json.loads(c.path.read_text()) for c in (*cases(), *recipe_cases()) if c.path.exists()]
    SUMMARY.write_text(json.dumps(done, indent=1) + '\n')
    print(f'{len(done)} cases in {SUMMARY.relative_to(ROOT)}')

if __name__ == '__main__': main()
