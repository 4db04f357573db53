"""What each modality learns from the other: fusing models on the synthetic world, several seeds, t intervals.

usage: python bench/crossmodal.py [--seeds 3] [--clips 512] [--out bench/crossmodal.json] [name=value ...]

Sound is cut into whole columns of 160 ms, most of them hidden, so that only the frames tell when a hidden column holds a contact;
each modality is dropped from a fifth of the clips, so that doing without it is something the model has been trained to do.
Errors are those of hidden patches of held-out clips, with the other modality present, withheld, and swapped for another clip's."""
import argparse, json, statistics, time
from pathlib import Path
import jax
from scipy.stats import t as student
from avmae_nb.config import preset
from avmae_nb.data.loader import eval_batches
from avmae_nb.data.sources import open_source
from avmae_nb.train.evaluate import cross_modal_gain, masked_error
from avmae_nb.train.pretrain import pretrain

SETTINGS = ('model.decoder=early', 'audio.patch=[16, 128]', 'audio.mask.ratio=0.75', 'audio.mask.drop=0.2', 'audio.weight=0.5',
            'video.mask.ratio=0.5', 'video.mask.drop=0.2', 'video.weight=0.5', 'train.epochs=8')

def interval(values):
    "Mean and half of the 95% t interval"
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float('nan')
    return statistics.mean(values), half

def one_seed(config, clips: int):
    "Train, then both tables"
    learner = pretrain(config).fit()
    batches = list(eval_batches(open_source(config.data, 'eval'), config, clips))
    shown = config.replace(**{f'{m}.mask.drop': 0.0 for m in config.modalities})
    return masked_error(learner.model, batches, shown), cross_modal_gain(learner.model, batches, shown)

def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (('--seeds', 3), ('--clips', 512)): args.add_argument(name, type=int, default=default)
    args.add_argument('--out', type=Path, default=Path('bench/crossmodal.json'))
    args.add_argument('settings', nargs='*', help='name=value, e.g. train.epochs=12')
    args = args.parse_args()
    config, rows, started = preset('tiny').override(*SETTINGS, *args.settings), [], time.time()
    for seed in range(args.seeds):
        error, gain = one_seed(config.replace(**{'train.seed': seed, 'train.eval_clips': 0}), args.clips)
        print(f'seed {seed}\n{error}\n{gain}', flush=True)
        rows.append({'seed': seed, 'model': error.model, 'mean patch': error.mean_patch, 'nearest in time': error.nearest_in_time, 'errors': gain.errors,
                     'gain': {m: gain.gain(m) for m in gain.errors}, 'gain against another clip': {m: gain.gain(m, 'another clip') for m in gain.errors}})
        args.out.write_text(json.dumps({'config': config.to_dict(), 'clips': args.clips, 'jax': jax.__version__, 'minutes': round((time.time() - started) / 60, 1), 'seeds': rows}, indent=1) + '\n')
    print(f'\n{len(rows)} seeds, mean and 95% t interval')
    for m in config.modalities:
        for what in ('gain', 'gain against another clip'):
            mean, half = interval([r[what][m] for r in rows])
            print(f'{m}: {what:26} {mean:6.1%} +- {half:.1%}')

if __name__ == '__main__': main()
