"""What each modality gains from the other: a fusing model on the synthetic world, several seeds, t intervals.

usage: python bench/crossmodal.py [--demo] [--seeds 3] [--clips 512] [--out bench/crossmodal.json] [name=value ...]

`--demo` trains the preset of `make demo` as it is (its decoder cannot show a gain where a whole modality is hidden), for its errors against the baselines; results go to bench/baselines.json.

Seeds that the file already holds, of the same settings, are not trained again.

Each modality is hidden as a whole from a part of the clips in training, so that only the other one can tell what was there, and the decoder
is a joint one (a decoder that is shared or separate sees nothing of the other modality where a whole one is hidden).
Errors are those of held-out clips of which one modality is hidden as a whole: with the other one there, withheld too, and swapped for another clip's."""
import argparse, json, time
from pathlib import Path
import jax
from avmae_nb.config import Mask, preset
from avmae_nb.data.loader import eval_batches
from avmae_nb.data.sources import open_source
from avmae_nb.recipes.statistics import t_interval
from avmae_nb.train.evaluate import cross_modal_gain, masked_error
from avmae_nb.train.pretrain import pretrain

SETTINGS = ('model.decoder=early', 'video.size=32', 'video.short_side=32', 'video.tubelet=[2, 16, 16]', 'video.mask.ratio=0.5', 'video.mask.drop=0.3', 'video.weight=0.5',
            'audio.mask.ratio=0.75', 'audio.mask.drop=0.5', 'audio.weight=0.5', 'train.steps=2000')

def one_seed(config, clips: int) -> tuple:
    "Train, then the error on masks as in training, and by modality its errors where it is hidden as a whole"
    learner = pretrain(config).fit()
    batches = list(eval_batches(open_source(config.data, 'eval'), config, clips))
    plain = config.replace(**{f'{m}.mask.drop': 0.0 for m in config.modalities})
    hidden = {m: cross_modal_gain(learner.model, batches, plain.replace(**{f'{m}.mask': Mask('modality')})) for m in config.modalities}
    return masked_error(learner.model, batches, plain), hidden

def done_before(out: Path, config, clips: int) -> list[dict]:
    "Results in the file, where its settings are the same"
    if not out.exists(): return []
    found = json.loads(out.read_text())
    return found['seeds'] if (found['config'], found['clips']) == (json.loads(json.dumps(config.to_dict())), clips) else []

def row_of(seed: int, error, hidden: dict) -> dict:
    "What is kept of one seed"
    return {'seed': seed, 'model': error.model, 'mean patch': error.mean_patch, 'nearest in time': error.nearest_in_time, 'whole modality hidden': {m: g.errors[m] for m, g in hidden.items()},
            'gain': {m: g.gain(m) for m, g in hidden.items()}, 'gain against another clip': {m: g.gain(m, 'another clip') for m, g in hidden.items()}}

def show(rows: list[dict], modalities):
    "Means over the seeds, with intervals"
    print(f'\n{len(rows)} seeds, mean and 95% t interval')
    for m in modalities:
        for what in ('model', 'mean patch', 'nearest in time', 'gain', 'gain against another clip'):
            mean, half = t_interval([r[what][m] for r in rows])
            print(f'{m}: {what:26} ' + (f'{mean:6.1%} +- {half:.1%}' if what.startswith('gain') else f'{mean:.4f} +- {half:.4f}'))

def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (('--seeds', 3), ('--clips', 512)): args.add_argument(name, type=int, default=default)
    args.add_argument('--demo', action='store_true', help='the preset of `make demo` as it is')
    args.add_argument('--out', type=Path, help='default: bench/crossmodal.json, with --demo bench/baselines.json')
    args.add_argument('settings', nargs='*', help='name=value, e.g. train.epochs=12')
    args = args.parse_args()
    out = args.out or Path('bench') / ('baselines.json' if args.demo else 'crossmodal.json')
    config, started = preset('tiny').override(*(() if args.demo else SETTINGS), *args.settings), time.time()
    rows = done_before(out, config, args.clips)
    for seed in sorted(set(range(args.seeds)) - {r['seed'] for r in rows}):
        error, hidden = one_seed(config.replace(**{'train.seed': seed, 'train.eval_clips': 0}), args.clips)
        rows.append(row_of(seed, error, hidden))
        print(f'seed {seed}\n{error}\n' + '\n'.join(f'{m} hidden as a whole: ' + ', '.join(f'{k} {v:.4f}' for k, v in g.errors[m].items()) for m, g in hidden.items()), flush=True)
        out.write_text(json.dumps({'config': config.to_dict(), 'clips': args.clips, 'jax': jax.__version__, 'minutes': round((time.time() - started) / 60, 1), 'seeds': rows}, indent=1) + '\n')
    show(rows, config.modalities)

if __name__ == '__main__': main()
