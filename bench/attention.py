"""Attention kernels on this machine, interleaved: CPU and wall milliseconds of forward and gradient, median of 5.
usage: python bench/attention.py"""
import statistics, time
import jax
from avmae_nb.model.transformer import per_head_attention, plain_attention

SHAPES = {'tiny decoder': (16, 576, 2, 32), 'ViT-B decoder, video': (2, 1568, 6, 64), 'ViT-B encoder, video': (4, 157, 12, 64)}
KERNELS = {'plain': plain_attention, 'per head': per_head_attention, 'jax.nn': jax.nn.dot_product_attention}

def once(f, args):
    cpu, wall = time.process_time(), time.perf_counter()
    jax.block_until_ready(f(*args))
    return time.process_time() - cpu, time.perf_counter() - wall

for name, shape in SHAPES.items():
    args = tuple(jax.random.normal(jax.random.key(0), (3, *shape)))
    steps = {k: jax.jit(jax.value_and_grad(lambda q, k, v, f=f: (f(q, k, v) ** 2).sum(), (0, 1, 2))) for k, f in KERNELS.items()}
    for f in steps.values(): jax.block_until_ready(f(*args))
    times = {k: [] for k in steps}
    for _ in range(5):
        for k, f in steps.items(): times[k].append(once(f, args))
    print(f'{name} {shape}, 4 x {shape[0] * shape[1] ** 2 * shape[2] * shape[3] / 1e9:.1f} GFLOP forward')
    for k, t in times.items():
        cpu, wall = (statistics.median(x) * 1000 for x in zip(*t))
        print(f'  {k:9} {cpu:7.0f} CPU ms {wall:7.0f} wall ms')
