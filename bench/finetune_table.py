"""Fine-tuning on the synthetic world, one table: pre-trained against scratch, sound and picture against both, localisation; mean and 95% t interval over seeds.

usage: python bench/finetune_table.py [--seeds 3] [--runs runs/finetune_table] [--pretrain-steps 2560] [--steps 768] [--localise-steps 512] [--clips 512] [--out bench/finetune_table.json] [--fast] [name=value ...]

Each stage is a run folder under --runs: one that is finished is not trained again, one that was interrupted goes on. A stage's held-out scores are kept in its scores.json.
For each seed: a pre-training of the preset `tiny` on the world `hard`; on `hard` classifiers of both modalities from it and from scratch, of sound alone and of picture alone; the one of both also without sound
and without picture; on `events` a label for each second by both, by sound, by picture. Settings name=value go to every fine-tuning run. --fast: a few steps of everything, to see that it runs."""
import argparse, json, time
from pathlib import Path
import jax
from seeds import interval
from avmae_nb.config import preset
from avmae_nb.data.sources import open_source
from avmae_nb.devices import compilation_cache
from avmae_nb.tasks import finetune_preset
from avmae_nb.train.checkpoint import saved_steps
from avmae_nb.train.finetune import finetune, load_finetuned
from avmae_nb.train.pretrain import pretrain
from avmae_nb.train.scores import compare_modalities

STAGES = ('hard AV', 'hard AV scratch', 'hard A', 'hard V', 'events AV', 'events A', 'events V')
ROWS = [('hard, top-1: pre-trained, both', 'hard AV', 'AV', 'top-1'), ('hard, top-1: from scratch, both', 'hard AV scratch', 'AV', 'top-1'), ('hard, top-1: sound alone', 'hard A', 'A', 'top-1'),
        ('hard, top-1: picture alone', 'hard V', 'V', 'top-1'), ('hard, top-1: both trained, sound given', 'hard AV', 'A', 'top-1'), ('hard, top-1: both trained, picture given', 'hard AV', 'V', 'top-1'),
        ('events, seconds right: both', 'events AV', 'AV', 'accuracy'), ('events, seconds right: sound alone', 'events A', 'A', 'accuracy'), ('events, seconds right: picture alone', 'events V', 'V', 'accuracy')]
GAPS = [('pre-trained - scratch', 0, 1), ('both - sound (hard)', 0, 2), ('both - picture (hard)', 0, 3), ('both - sound (events)', 6, 7), ('both - picture (events)', 6, 8)]

def pretraining(args, seed):
    "Configuration of the autoencoder"
    return preset('tiny').replace(**{'data.world': 'hard', 'train.seed': seed, 'train.steps': args.pretrain_steps, 'train.eval_clips': 0})

def tuning(args, stage, seed, init):
    "Configuration of one stage of fine-tuning"
    world, letters, *scratch = stage.split()
    c = finetune_preset('tiny-localise' if world == 'events' else 'tiny-finetune').replace(init='scratch' if scratch else str(init), **{'data.world': world, 'train.seed': seed, 'train.eval_clips': 0})
    c = c.replace(**{'train.steps': args.localise_steps if world == 'events' else args.steps}).override(*args.settings)
    return c if letters == 'AV' else c.only({'A': 'audio', 'V': 'video'}[letters])

def finished(run, steps): return saved_steps(run)[-1:] == [steps]

def trained(make, config, run):
    "Train a stage to its end, unless it is there"
    if finished(run, config.train.steps): return print(f'{run}: finished before', flush=True)
    started = time.time()
    if make(config, run).fit().stopped: raise SystemExit(130)
    print(f'{run}: {time.time() - started:.0f} s', flush=True)

def scores_of(args, run):
    "Held-out scores of a finished stage for every set of modalities: `{'AV': {'top-1': 0.5}}`"
    file = run/'scores.json'
    key = dict(steps=saved_steps(run)[-1], clips=args.clips, views=args.views)
    if file.exists() and (kept := json.loads(file.read_text())).get('key') == key: return kept['scores']
    model, c = load_finetuned(run)
    views = 1 if c.labels == 'seconds' else args.views
    found = compare_modalities(model, open_source(c.data, 'eval'), c, None, args.clips, views)
    scores = {k: s.values for k, s in found.rows.items()}
    file.write_text(json.dumps(dict(key=key, scores=scores), indent=1))
    return scores

def one_seed(args, seed):
    "All stages of a seed: `{stage: {letters: {score: value}}}`"
    folder = args.runs/f'seed{seed}'
    trained(pretrain, pretraining(args, seed), folder/'pretrained')
    out = {}
    for stage in STAGES:
        run = folder/stage.replace(' ', '_')
        trained(finetune, tuning(args, stage, seed, folder/'pretrained'), run)
        out[stage] = scores_of(args, run)
    return out

def table(seeds) -> str:
    "Rows and gaps as text; gaps are of the same seed"
    values = [[s[stage][letters][name] for s in seeds] for _, stage, letters, name in ROWS]
    lines = [f'{len(seeds)} seeds, mean and 95% t interval', *(f'{row[0]:42}{m:8.4f} +- {h:.4f}' for row, (m, h) in zip(ROWS, map(interval, values)))]
    return '\n'.join([*lines, *(f'{name:42}{m:+8.4f} +- {h:.4f}' for name, a, b in GAPS for m, h in [interval([x - y for x, y in zip(values[a], values[b])])])])

def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (('--seeds', 3), ('--pretrain-steps', 2560), ('--steps', 768), ('--localise-steps', 512), ('--clips', 512), ('--views', 4)): p.add_argument(name, type=int, default=default)
    p.add_argument('--runs', type=Path, default=Path('runs/finetune_table'))
    p.add_argument('--out', type=Path, default=Path('bench/finetune_table.json'))
    p.add_argument('--fast', action='store_true', help='a few steps of everything')
    p.add_argument('settings', nargs='*', help='name=value for fine-tuning, e.g. optim.base_learning_rate=0.8')
    args = p.parse_args()
    if args.fast: args.pretrain_steps, args.steps, args.localise_steps, args.clips, args.views, args.settings = 4, 4, 4, 16, 1, [*args.settings, 'train.batch=4']
    return args

def main():
    args, seeds, started = arguments(), [], time.time()
    compilation_cache()
    hard = sum(s.startswith('hard') for s in STAGES)
    print(f'budget: {args.seeds} seeds, each {args.pretrain_steps} steps of pre-training, {hard} x {args.steps} steps on `hard`, {len(STAGES) - hard} x {args.localise_steps} steps on `events`, {args.clips} held-out clips in {args.views} views; runs in {args.runs}', flush=True)
    for seed in range(args.seeds):
        seeds.append(one_seed(args, seed))
        print(f'\n{table(seeds)}\n', flush=True)
        args.out.write_text(json.dumps({'arguments': {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}, 'jax': jax.__version__, 'minutes': round((time.time() - started) / 60, 1), 'seeds': seeds}, indent=1) + '\n')

if __name__ == '__main__': main()
