"""What a pre-training step costs as one thing grows: tokens, width, depth, clips a batch, devices (simulated on this CPU, so they share its cores: what grows is overhead).

    python bench/scaling.py --out bench/scaling.json
    python bench/scaling.py --only depth tokens --repeats 5
    python bench/scaling.py --toy                   # seconds: to see that it runs

From one middle point: 16 frames of 112 x 112 and 4 s of sound, batch 4, encoder 6 layers of width 384, decoder 2 of 192. Seconds, compile seconds, temporaries and FLOPs of each; `floor` is FLOPs over the measured peak.
"""
import argparse, functools, json, os, subprocess, sys
from pathlib import Path
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]
from timing import machine, simulated
AXES = {'tokens': (8, 16, 32, 64), 'width': (192, 384, 768), 'depth': (3, 6, 12, 24), 'batch': (1, 2, 4, 8), 'devices': (1, 2, 4, 8)}
TOY = {'tokens': (4, 8), 'width': (32, 64), 'depth': (1, 2), 'batch': (1, 2), 'devices': (1, 2)}
MIDDLE = {'tokens': 16, 'width': 384, 'depth': 6, 'batch': 4, 'devices': 1}
TOY_MIDDLE = {'tokens': 4, 'width': 32, 'depth': 2, 'batch': 2, 'devices': 1}

def configuration(point: dict, toy: bool):
    "`tokens` is the number of frames; the batch is at least the devices"
    from avmae_nb.config import Stack, preset
    stack = lambda width, layers: Stack(width, layers, max(1, width // 64), 4 * width)
    c = preset('vggsound').replace(**{'video.frames': point['tokens'], 'video.stride': 1, 'video.size': 32 if toy else 112, 'audio.seconds': 0.64 if toy else 4.0, 'audio.mask.ratio': 0.7, 'train.batch': max(point['batch'], point['devices'])})
    return c.replace(**{'model.encoder_stack': stack(point['width'], point['depth']), 'model.decoder_stack': stack(point['width'] // 2, max(1, point['depth'] // 3))})

def measure(point: dict, toy: bool, repeats: int) -> dict:
    "One point, in this process"
    from pretrain_step import measure_step
    c = configuration(point, toy)
    found = measure_step(c, repeats)
    keep = ('step_seconds', 'step_seconds_repeats', 'compile_seconds', 'temporary_bytes', 'step_flops', 'peak_flops_per_second', 'mfu', 'parameters')
    return {'tokens': sum(m.tokens for m in c.modalities.values()), 'clips': c.train.batch, **{k: found[k] for k in keep}}

@functools.cache   # the middle lies on most axes: it is measured once
def on_devices(point: str, repeats: int, toy: bool) -> dict:   # point: JSON
    "One point in a process with so many simulated devices"
    command = [sys.executable, __file__, '--point', point, '--repeats', str(repeats), *(['--toy'] if toy else [])]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **simulated(json.loads(point)['devices'])})
    if done.returncode: sys.exit(f'{point}: {done.stderr[-2000:]}')
    return json.loads(done.stdout.strip().splitlines()[-1])

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--only', nargs='+', choices=list(AXES), default=list(AXES)); p.add_argument('--repeats', type=int, default=5)
    p.add_argument('--toy', action='store_true', help='very small sizes'); p.add_argument('--out', type=Path, help='JSON file')
    p.add_argument('--point', type=json.loads, help=argparse.SUPPRESS)
    args = p.parse_args()
    if not args.toy: os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
    axes, middle = (TOY, TOY_MIDDLE) if args.toy else (AXES, MIDDLE)
    if args.point: return print(json.dumps(measure(args.point, args.toy, args.repeats)))
    found = {'bench': 'scaling', 'machine': machine(), 'middle': middle, 'axes': {}}
    for axis in args.only:
        found['axes'][axis] = {}
        for size in axes[axis]:
            point = {**middle, 'batch': max(axes['devices']) if axis == 'devices' else middle['batch'], axis: size}
            one = found['axes'][axis][str(size)] = on_devices(json.dumps(point), args.repeats, args.toy)
            print(f'{axis:>8} {size:4} ({one["tokens"]} tokens, {one["clips"]} clips): {one["step_seconds"]:7.3f} s a step, floor {one["step_flops"] / one["peak_flops_per_second"]:7.3f} s, compile {one["compile_seconds"]:5.1f} s, {one["temporary_bytes"] / 2**20:6.0f} MiB', flush=True)
    if args.out: args.out.write_text(json.dumps(found, indent=1) + '\n')

if __name__ == '__main__': main()
