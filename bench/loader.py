"""Clips a second of the loader, by workers.

    python bench/loader.py                          # the synthetic world at the tiny preset
    python bench/loader.py --source clips --preset vggsound
    python bench/loader.py --source folder --path videos --preset vggsound --workers 0 2 8
"""
import argparse, time
from avmae_nb.config import preset
from avmae_nb.data.loader import Loader
from avmae_nb.data.sources import open_source

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--preset', default='tiny'); parser.add_argument('--source', default='synthetic'); parser.add_argument('--path')
    parser.add_argument('--workers', type=int, nargs='+', default=[0, 1, 2]); parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--seconds', type=float, default=5.0, help='measured after the first two batches')
    args = parser.parse_args()
    config = preset(args.preset).replace(**{'data.source': args.source, 'data.path': args.path, 'train.batch': args.batch})
    source = open_source(config.data)
    print(f'{args.preset}, {args.source}, {len(source)} clips, batch {args.batch}')
    for workers in args.workers:
        loader, begin = Loader(source, config.replace(**{'data.workers': workers})), time.perf_counter()
        with loader.batches() as batches:
            next(batches)
            first = time.perf_counter() - begin
            next(batches)
            begin, count = time.perf_counter(), 0
            while time.perf_counter() - begin < args.seconds: count += len(next(batches)['index'])
            rate = count / (time.perf_counter() - begin)
        print(f'{workers} workers: {rate:7.1f} clips/s, first batch after {first:.1f} s', flush=True)

if __name__ == '__main__': main()
