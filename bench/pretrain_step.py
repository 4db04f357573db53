"""Cost of one pre-training step on the machine at hand: clips/s, step and compile time, peak memory, FLOPs, MFU.

  python bench/pretrain_step.py                                  the tiny preset
  python bench/pretrain_step.py --preset vggsound --size S train.batch=4
  python bench/pretrain_step.py --preset vggsound train.batch=4 audio.mask.ratio=0.7 --repeats 7 --json
  python bench/pretrain_step.py --loader                         how fast batches are made, too

Inputs are noise of the right shape. Seconds are medians; the peak of a CPU is measured with a matrix product, an accelerator's is the published one.
"""
import argparse, itertools, json, os, platform, statistics, sys, time
from pathlib import Path
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]
from timing import resident

def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--preset', default='tiny')
    p.add_argument('--size', help='tiny, Ti, S, B, L or H instead of the preset\'s')
    p.add_argument('--repeats', type=int, default=5, help='steps that are timed (at least 5)')
    p.add_argument('--cache', action='store_true', help='keep the compilation cache on: the compile time then means little')
    p.add_argument('--xla', nargs='+', default=[], metavar='name=value', help='options of the compiler, to try what they do, e.g. xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED')
    p.add_argument('--loader', action='store_true', help='time the loader too')
    p.add_argument('--json', action='store_true', help='one JSON object instead of a table')
    p.add_argument('--out', help='JSON file, besides')
    p.add_argument('settings', nargs='*', metavar='name=value')
    return p.parse_intermixed_args()

def random_batch(c):
    "Noise in the shape of a batch"
    import numpy as np
    rng = np.random.default_rng(0)
    make = {3: lambda m: rng.integers(0, 256, (c.train.batch, *m.shape, m.channels), dtype=np.uint8), 2: lambda m: rng.normal(size=(c.train.batch, *m.shape)).astype(np.float32)}
    return {**{name: make[len(m.shape)](m) for name, m in c.modalities.items()}, 'example_mask': np.ones(c.train.batch, np.float32)}

def peak_memory(device) -> tuple[int, str]:
    "Bytes, and of what"
    stats = device.memory_stats() or {}
    if 'peak_bytes_in_use' in stats: return stats['peak_bytes_in_use'], 'of the first device'
    return resident()['peak_bytes'], 'of the process'

def timed_steps(learner, batch, repeats):
    "Seconds of each step, the device waited for"
    import jax
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(learner.step(batch))
        seconds.append(time.perf_counter() - start)
    return seconds

def learner_of(c):
    "The configuration's own training step, with nothing around it"
    from avmae_nb.train.learner import Learner, Settings
    from avmae_nb.train.optim import optimizer
    from avmae_nb.train.pretrain import MaskedReconstruction, build_model
    return Learner(build_model(c), MaskedReconstruction(c), optimizer(c.optim, c.learning_rate, 1000, 100), settings=Settings(fsdp=c.train.fsdp))

def measure_step(c, repeats, xla: dict | None = None):   # xla: options of the compiler
    "Everything about the step, in a dict"
    import jax
    from avmae_nb import devices
    from avmae_nb.model.flops import forward_flops, step_flops
    learner = learner_of(c)
    batch = devices.shard_batch(random_batch(c), learner.mesh)
    start = time.perf_counter()
    compiled = learner.update.lower(learner.state, batch).compile(compiler_options=xla or None)   # None: the step's own
    compile_seconds = time.perf_counter() - start
    learner.__dict__['update'] = compiled
    timed_steps(learner, batch, 1)
    steps = timed_steps(learner, batch, max(5, repeats))
    step, flops, (peak, source), (memory, whose) = statistics.median(steps), step_flops(c), devices.peak_flops(), peak_memory(jax.local_devices()[0])
    parameters = sum(x.size for x in jax.tree.leaves(learner.state.params))
    return {'step_seconds': step, 'step_seconds_range': [min(steps), max(steps)], 'step_seconds_repeats': steps, 'clips_per_second': c.train.batch / step, 'compile_seconds': compile_seconds,
            'peak_memory_bytes': memory, 'peak_memory_of': whose, 'temporary_bytes': getattr(compiled.memory_analysis(), 'temp_size_in_bytes', None), 'parameters': parameters,
            'step_flops': flops, 'forward_flops_per_clip': forward_flops(c), 'flops_per_second': flops / step, 'peak_flops_per_second': peak and peak * jax.device_count(),
            'peak_source': source, 'mfu': peak and flops / step / peak / jax.device_count()}

def measure_loader(c):
    "Clips a second that one process makes, first batch left out"
    from avmae_nb.data.loader import Loader
    from avmae_nb.data.sources import open_source
    batches = iter(Loader(open_source(c.data), c).batches(0))
    next(batches)
    start, n = time.perf_counter(), 5
    for _ in itertools.islice(batches, n): pass
    return {'loader_clips_per_second': n * c.train.batch / (time.perf_counter() - start)}

def table(found):
    "The same for a reader"
    g = lambda x: f'{x / 1e9:.1f}'
    rows = [('device', f'{found["device"]}, {found["cores"]} cores, load {found["load"]}'), ('configuration', found['configuration']), ('parameters', f'{found["parameters"] / 1e6:.1f} M'),
            ('step', f'{found["step_seconds"]:.3f} s ({found["step_seconds_range"][0]:.3f} to {found["step_seconds_range"][1]:.3f})'), ('speed', f'{found["clips_per_second"]:.2f} clips/s'),
            ('compile', f'{found["compile_seconds"]:.1f} s'), ('peak memory', f'{found["peak_memory_bytes"] / 2**20:.0f} MiB {found["peak_memory_of"]}' + (f', {found["temporary_bytes"] / 2**20:.0f} MiB of it the step\'s temporaries' if found['temporary_bytes'] else '')),
            ('FLOPs', f'{g(found["step_flops"])} GFLOP a step'), ('rate', f'{g(found["flops_per_second"])} GFLOP/s'),
            ('peak', 'unknown' if not found['peak_flops_per_second'] else f'{g(found["peak_flops_per_second"])} GFLOP/s ({found["peak_source"]})'),
            ('MFU', 'unknown' if not found['mfu'] else f'{100 * found["mfu"]:.1f}%')]
    if 'loader_clips_per_second' in found: rows.append(('loader', f'{found["loader_clips_per_second"]:.1f} clips/s in one process'))
    return '\n'.join(f'{k:<14}{v}' for k, v in rows)

def main():
    args = options()
    if not args.cache: os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
    import jax
    from avmae_nb.cli import describe
    from avmae_nb.config import ConfigError, preset
    try: c = preset(args.preset).override(*([f'model.size={args.size}'] if args.size else []), *args.settings)
    except ConfigError as e: sys.exit(f'{e}')
    load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else None
    found = {'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}', 'cores': os.cpu_count(), 'load': load, 'python': platform.python_version(), 'jax': jax.__version__,
             'configuration': describe(c), 'xla': args.xla, **measure_step(c, args.repeats, dict(x.split('=', 1) for x in args.xla) or None), **(measure_loader(c) if args.loader else {})}
    print(json.dumps(found, indent=1) if args.json else table(found))
    if args.out: Path(args.out).write_text(json.dumps(found, indent=1) + '\n')

if __name__ == '__main__': main()
