"""Clips a second of the loader, by workers.

    python bench/loader.py                          # the synthetic world at the tiny preset
    python bench/loader.py --source clips --preset vggsound
    python bench/loader.py --source folder --path videos --preset vggsound --workers 0 2 8
"""
import argparse, json, sys, time
from pathlib import Path
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]
from avmae_nb.config import preset
from avmae_nb.data.loader import Loader
from avmae_nb.data.sources import open_source
from timing import machine

def rate(batches, seconds: float) -> float:
    "Clips a second"
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds: count += len(next(batches)['index'])
    return count / (time.perf_counter() - begin)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--preset', default='tiny'); parser.add_argument('--source', default='synthetic'); parser.add_argument('--path')
    parser.add_argument('--workers', type=int, nargs='+', default=[0, 1, 2]); parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--seconds', type=float, default=5.0, help='measured after the first two batches, in five parts')
    parser.add_argument('--out', type=Path, help='JSON file')
    args = parser.parse_args()
    config = preset(args.preset).replace(**{'data.source': args.source, 'data.path': args.path, 'train.batch': args.batch})
    source = open_source(config.data)
    print(f'{args.preset}, {args.source}, {len(source)} clips, batch {args.batch}')
    found = {'bench': 'loader', 'machine': machine(), 'configuration': f'{args.preset}, {args.source}, batch {args.batch}', 'workers': {}}
    for workers in args.workers:
        loader, begin = Loader(source, config.replace(**{'data.workers': workers})), time.perf_counter()
        with loader.batches() as batches:
            next(batches)
            first = time.perf_counter() - begin
            next(batches)
            rates = [rate(batches, args.seconds / 5) for _ in range(5)]
        print(f'{workers} workers: {sorted(rates)[2]:7.1f} clips/s, first batch after {first:.1f} s', flush=True)
        found['workers'][str(workers)] = {'repeats': rates, 'first_batch_seconds': first}
    if args.out: args.out.write_text(json.dumps(found, indent=1) + '\n')

if __name__ == '__main__': main()
