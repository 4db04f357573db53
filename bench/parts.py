"""Where a ViT-B pre-training step's time goes on this machine, part by part: each stack, attention and the matrix products that they consist of, forward and gradient, as shares of the peak measured beside them.

    python bench/parts.py                       # batch 4, about a minute and a half
    python bench/parts.py --batch 2 --out parts.json

A part's floor is its FLOPs over the peak. What a stack loses beyond its products and attention goes to normalisation, GELU, and to copies: a scanned layer's weights and gradients are sliced out of and put back into the stack's.
`list` is the same stack as a loop over layers that are arrays of their own, which needs no such copies.
"""
import argparse, json, os, statistics, sys
from pathlib import Path
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]
from timing import interleaved, machine

STACKS = {'encoder, video': ('E', 157, 157), 'encoder, audio': ('E', 120, 120), 'decoder, video': ('D', 1568, 1411), 'decoder, audio': ('D', 400, 280)}   # tokens, of which the last layer keeps; masks 0.9 and 0.7
PRODUCTS = {'encoder MLP': (157, 768, 3072), 'encoder attention': (157, 768, 768), 'decoder MLP': (1568, 384, 1536), 'decoder attention': (1568, 384, 384)}   # rows a clip, in, out

def seconds(f, arguments, repeats: int = 5) -> list[float]:
    "Of each repeat; compiled and run once before"
    import jax
    compiled = jax.jit(f).lower(*arguments).compile()
    return interleaved({'part': lambda: jax.block_until_ready(compiled(*arguments))}, repeats)['part']

def stack_of(kind: str):
    "Sizes of ViT-B's encoder (E) or decoder (D)"
    from avmae_nb.config import DECODERS, ENCODERS
    return {'E': ENCODERS, 'D': DECODERS}[kind]['B']

def stacks(batch: int):
    "Names, FLOPs, functions and arguments: loss and gradients of whole stacks, scanned and as a list of layers"
    import jax
    from flax import nnx
    from avmae_nb.model.flops import stack_flops
    from avmae_nb.model.transformer import Transformer
    for name, (kind, tokens, kept) in STACKS.items():
        stack = stack_of(kind)
        net = Transformer(stack, rngs=nnx.Rngs(0))
        (graph, weights), (layer, stacked) = nnx.split(net), nnx.split(net.blocks)
        x, flops = jax.random.normal(jax.random.key(0), (batch, tokens, stack.width)), batch * 3 * stack_flops(tokens, kept, stack, stack.layers)
        yield name, flops, jax.value_and_grad(lambda w, x, graph=graph, k=kept: (nnx.merge(graph, w)(x, None, slice(-k, None)) ** 2).sum(), (0, 1)), (weights, x)
        def as_list(ws, x, layer=layer, k=kept):
            for w in ws[:-1]: x = nnx.merge(layer, w)(x)
            return (nnx.merge(layer, ws[-1])(x, keep=slice(-k, None)) ** 2).sum()
        yield f'{name}, list', flops, jax.value_and_grad(as_list, (0, 1)), ([jax.tree.map(lambda w: w[i], stacked) for i in range(stack.layers)], x)

def attentions(batch: int):
    "The same of attention alone, as it is chosen for the length"
    import jax
    from avmae_nb.model.transformer import attention
    for name, (kind, tokens, _) in STACKS.items():
        stack = stack_of(kind)
        heads, wide = stack.heads, stack.width // stack.heads
        yield f'attention, {name}', 12 * batch * tokens**2 * heads * wide, jax.value_and_grad(lambda q, k, v: (attention(q, k, v) ** 2).sum(), (0, 1, 2)), tuple(jax.random.normal(jax.random.key(0), (3, batch, tokens, heads, wide)))

def products(batch: int):
    "And of single matrix products: forward, gradient of the input, gradient of the kernel"
    import jax.numpy as jnp
    for name, (rows, wide, out) in PRODUCTS.items():
        x, w, g = jnp.ones((batch * rows, wide)), jnp.ones((wide, out)), jnp.ones((batch * rows, out))
        for what, f, a in (('forward', lambda x, w: x @ w, (x, w)), ('input', lambda g, w: g @ w.T, (g, w)), ('kernel', lambda x, g: x.T @ g, (x, g))): yield f'product, {name}, {what}', 2 * batch * rows * wide * out, f, a

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--batch', type=int, default=4); p.add_argument('--repeats', type=int, default=5); p.add_argument('--out', type=Path, help='JSON file')
    args = p.parse_args()
    os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
    from avmae_nb.devices import gemm_peak
    rows, peaks = {}, []
    for make in (stacks, attentions, products):
        for name, flops, f, arguments in make(args.batch):
            peaks.append(gemm_peak())
            repeats = seconds(f, arguments, args.repeats)
            rows[name] = {'seconds': statistics.median(repeats), 'repeats': repeats, 'flops': flops}
    peak = max(peaks)
    print(f'peak {peak / 1e9:.0f} GFLOP/s, batch {args.batch}')
    for name, r in rows.items(): print(f'{name:44}{1e3 * r["seconds"]:9.1f} ms  floor {1e3 * r["flops"] / peak:8.1f}  {r["flops"] / r["seconds"] / peak:5.0%} of peak')
    if args.out: args.out.write_text(json.dumps({'bench': 'parts', 'machine': machine(), 'batch': args.batch, 'peak': peak, 'parts': rows}, indent=1) + '\n')

if __name__ == '__main__': main()
