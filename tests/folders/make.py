"""Small folders as this version writes them, for the versions after it to read: a pre-training run, a fine-tuning run, an exported model.

    python tests/folders/make.py        # before a release: writes tests/folders/<version>.tar.xz; commit it, and never make it again

Each archive holds `pretrain/`, `finetune/`, `exported/` and `expected.json` with numbers that the weights give."""
import io, json, os, sys, tarfile, tempfile
from pathlib import Path
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

def small(config):
    "The toys of the tests with narrower layers: the archive is about 300 kB, most of it Orbax metadata"
    from avmae_nb.config import Stack
    stack = Stack(width=8, layers=1, heads=2, mlp=16)
    part = {'classifier.encoder_stack': stack} if hasattr(config, 'classifier') else {'model.encoder_stack': stack, 'model.decoder_stack': stack, 'model.encoder': 'early', 'model.decoder': 'early'}
    return config.replace(**part, **{'train.steps': 4, 'train.eval_every': 2, 'train.checkpoint_every': 2, 'train.keep': 1})

def numbers(folder: Path) -> dict:
    "What the weights in the folders give"
    import jax, numpy as np
    from avmae_nb.data.loader import Loader
    from avmae_nb.data.sources import open_source
    from avmae_nb.interop.handout import open_model
    from avmae_nb.model.patching import preprocess
    from avmae_nb.train.pretrain import load
    model, config = load(folder / 'pretrain')
    batch = preprocess(Loader(open_source(config.data), config).batch_at(0), config.modalities)
    out = {'pretrain': model.encode(batch), 'exported': open_model(folder / 'exported').model.encode(batch), 'finetune': {'logits': open_model(folder / 'finetune').model.predict(batch)}}
    return {name: {k: float(np.abs(np.asarray(v)).mean()) for k, v in found.items()} for name, found in out.items()}

def make(folder: Path):
    import toys
    from avmae_nb.interop.handout import hand_out
    from avmae_nb.train.finetune import finetune
    from avmae_nb.train.pretrain import pretrain
    pretrain(small(toys.TOY), folder / 'pretrain').fit()
    finetune(small(toys.TOY_TUNING), folder / 'finetune').fit()
    hand_out(folder / 'pretrain', folder / 'exported')
    (folder / 'expected.json').write_text(json.dumps(numbers(folder), indent=1))

def pack(folder: Path, to: Path):
    "An archive without owners and times"
    def plain(info):
        info.uid = info.gid = info.mtime = 0; info.uname = info.gname = ''
        return None if info.name.endswith('.lock') else info
    with tarfile.open(to, 'w:xz') as tar: tar.add(folder, arcname='.', filter=plain)

def main():
    from avmae_nb import __version__
    to = HERE / f'{__version__}.tar.xz'
    if to.exists(): sys.exit(f'{to.name} is there: folders of a released version are not made again')
    with tempfile.TemporaryDirectory() as d: make(Path(d)); pack(Path(d), to)
    print(to.name, to.stat().st_size, 'bytes')

if __name__ == '__main__': main()
