"""Seconds until a large collection is open: a folder of 100,000 files, and a label file of 200,000 rows over it.

    python bench/start.py --files 100000 --rows 200000 --out bench/start.json

The files are hard links to one clip in 100 subfolders; half of the rows name files that are not there, as in AudioSet."""
import argparse, json, os, resource, sys, tempfile, time, warnings
from pathlib import Path
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from avmae_nb.config import Data, preset
from avmae_nb.data.loader import Loader
from avmae_nb.data.sources import clips_folder, open_source

def timed(f):
    begin = time.perf_counter()
    out = f()
    return out, round(time.perf_counter() - begin, 2)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--files', type=int, default=100_000); p.add_argument('--rows', type=int, default=200_000); p.add_argument('--out', type=Path)
    args = p.parse_args()
    warnings.simplefilter('ignore')
    out = {'files': args.files, 'rows': args.rows}
    with tempfile.TemporaryDirectory() as d:
        root, names = Path(d) / 'clips', [f'{k % 100:02}/clip{k:06}.mp4' for k in range(max(args.files, args.rows))]
        for k in range(100): (root / f'{k:02}').mkdir(parents=True)
        first = root / 'first.mp4'; first.write_bytes((clips_folder() / 'bbb.mp4').read_bytes())
        folders = 0
        for n in names[:args.files]:
            if os.stat(first).st_nlink > 30_000: folders += 1; first = root / f'first{folders}.mp4'; first.write_bytes((root / 'first.mp4').read_bytes())
            os.link(first, root / n)
        (Path(d) / 'labels.csv').write_text('file,label,split\n' + ''.join(f'{n},class {k % 309},{"test" if k % 10 == 0 else "train"}\n' for k, n in enumerate(names[:args.rows])))
        folder = Data(source='folder', path=str(root))
        source, out['folder, s'] = timed(lambda: open_source(folder))
        source, out['label file, s'] = timed(lambda: open_source(folder.replace(labels=f'{d}/labels.csv')))
        config = preset('tiny').replace(data=folder.replace(labels=f'{d}/labels.csv'), **{'train.batch': 4})
        loader, out['loader, s'] = timed(lambda: Loader(source, config))
        _, out['first batch, s'] = timed(lambda: loader.batch_at(0))
        _, out['balanced loader, s'] = timed(lambda: Loader(source, config.replace(**{'data.balanced': True})))
        _, out['fingerprint, s'] = timed(source.digest)
        out['clips'] = len(source)
    out['most MB'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(out, indent=1))
    if args.out: args.out.write_text(json.dumps(out, indent=1) + '\n')

if __name__ == '__main__': main()
