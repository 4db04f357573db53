"""Attention kernels on this machine, interleaved: CPU and wall milliseconds of forward and gradient.

    python bench/attention.py [--rounds 5] [--out bench/attention.json]"""
import argparse, json, statistics, sys, time
from pathlib import Path
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]
from timing import machine

SHAPES = {'tiny decoder': (16, 576, 2, 32), 'ViT-B decoder, video': (2, 1568, 6, 64), 'ViT-B encoder, video': (4, 157, 12, 64)}

def once(f, args):
    import jax
    cpu, wall = time.process_time(), time.perf_counter()
    jax.block_until_ready(f(*args))
    return time.process_time() - cpu, time.perf_counter() - wall

def measure(shape, rounds: int) -> dict:
    "Every kernel on one shape, in turn"
    import jax
    from avmae_nb.model.transformer import chunked_attention, folded_attention, per_head_attention, plain_attention
    kernels = {'plain': plain_attention, 'folded': folded_attention, 'per head': per_head_attention, 'chunked': chunked_attention, 'jax.nn': jax.nn.dot_product_attention}
    args = tuple(jax.random.normal(jax.random.key(0), (3, *shape)))
    steps = {k: jax.jit(jax.value_and_grad(lambda q, k, v, f=f: (f(q, k, v) ** 2).sum(), (0, 1, 2))) for k, f in kernels.items()}
    for f in steps.values(): jax.block_until_ready(f(*args))
    times = {k: [] for k in steps}
    for _ in range(rounds):
        for k, f in steps.items(): times[k].append(once(f, args))
    return {k: {'cpu_repeats': [c for c, _ in t], 'repeats': [w for _, w in t]} for k, t in times.items()}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rounds', type=int, default=5); p.add_argument('--out', type=Path, help='JSON file')
    args = p.parse_args()
    found = {'bench': 'attention', 'machine': machine(), 'shapes': {}}
    for name, shape in SHAPES.items():
        found['shapes'][name] = measure(shape, args.rounds)
        print(f'{name} {shape}, 4 x {shape[0] * shape[1] ** 2 * shape[2] * shape[3] / 1e9:.1f} GFLOP forward')
        for k, t in found['shapes'][name].items(): print(f'  {k:9} {statistics.median(t["cpu_repeats"]) * 1000:7.0f} CPU ms {statistics.median(t["repeats"]) * 1000:7.0f} wall ms', flush=True)
    if args.out: args.out.write_text(json.dumps(found, indent=1) + '\n')

if __name__ == '__main__': main()
