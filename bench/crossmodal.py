"""What each modality gains from the other: a fusing model on the synthetic world, several seeds, t intervals.

usage: python bench/crossmodal.py [--seeds 3] [--clips 512] [--out bench/crossmodal.json] [name=value ...]

Each modality is hidden as a whole from a part of the clips in training, so that only the other one can tell what was there, and the decoder
is a joint one (a decoder that is shared or separate sees nothing of the other modality where a whole one is hidden).
Errors are those of held-out clips of which one modality is hidden as a whole: with the other one there, withheld too, and swapped for another clip's."""
import argparse, json, time
from pathlib import Path
import jax
from seeds import interval
from avmae_nb.config import Mask, preset
from avmae_nb.data.loader import eval_batches
from avmae_nb.data.sources import open_source
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

def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (('--seeds', 3), ('--clips', 512)): args.add_argument(name, type=int, default=default)
    args.add_argument('--out', type=Path, default=Path('bench/crossmodal.json'))
    args.add_argument('settings', nargs='*', help='name=value, e.g. train.epochs=12')
    args = args.parse_args()
    config, rows, started = preset('tiny').override(*SETTINGS, *args.settings), [], time.time()
    for seed in range(args.seeds):
        error, hidden = one_seed(config.replace(**{'train.seed': seed, 'train.eval_clips': 0}), args.clips)
        rows.append({'seed': seed, 'model': error.model, 'mean patch': error.mean_patch, 'nearest in time': error.nearest_in_time, 'whole modality hidden': {m: g.errors[m] for m, g in hidden.items()},
                     'gain': {m: g.gain(m) for m, g in hidden.items()}, 'gain against another clip': {m: g.gain(m, 'another clip') for m, g in hidden.items()}})
        print(f'seed {seed}\n{error}\n' + '\n'.join(f'{m} hidden as a whole: ' + ', '.join(f'{k} {v:.4f}' for k, v in g.errors[m].items()) for m, g in hidden.items()), flush=True)
        args.out.write_text(json.dumps({'config': config.to_dict(), 'clips': args.clips, 'jax': jax.__version__, 'minutes': round((time.time() - started) / 60, 1), 'seeds': rows}, indent=1) + '\n')
    print(f'\n{len(rows)} seeds, mean and 95% t interval')
    for m in config.modalities:
        for what in ('gain', 'gain against another clip'):
            mean, half = interval([r[what][m] for r in rows])
            print(f'{m}: {what:26} {mean:6.1%} +- {half:.1%}')

if __name__ == '__main__': main()
