"""A fine-tuning step of MBT-B at 3136 + 400 tokens, batch 1, beside the same model with attention as plain einsums and everything kept; and what the compiler says each needs.

    python bench/finetune_step.py --out bench/finetune_step.json
    python bench/finetune_step.py --layers 12       # all layers in time, too: the plain one wants 20 GiB
    python bench/finetune_step.py --only none block --rounds 3

Both are the whole training step: forward, gradient, clipping, SGD with momentum. Timed on some layers in the paper's proportion of own to fused ones (2 + 1; the paper's 8 + 4), one step of each in turn, because the
plain one does not fit a small machine; memory is that of all 12 layers, compiled and not run: `temporary` is what the compiler sets aside beside weights, momentum and batch, gradients included;
`of the gradient` is the same for the gradient alone, which goes out. `none`, `attention`, `block`: the model's remat policies. One step of plain and of each policy must agree in loss and gradient norm.
"""
import argparse, contextlib, json, os, statistics, sys, time
from pathlib import Path
from unittest import mock
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]
from timing import interleaved, machine, ratio, resident, summary
POLICIES = ('none', 'attention', 'block')

@contextlib.contextmanager
def textbook():
    "Programs that are traced meanwhile compute attention in one piece and keep every intermediate value"
    import jax
    from avmae_nb.model import recompute, transformer
    everything = dict.fromkeys(recompute.KEPT_ON_CPU, jax.checkpoint_policies.everything_saveable)
    with mock.patch.object(transformer, 'attention', transformer.plain_attention), mock.patch.dict(recompute.KEPT_ON_CPU, everything): yield

def variant(name): return textbook() if name == 'plain' else contextlib.nullcontext()

def configuration(layers: int, policy: str):
    "The preset of VGGSound at batch 1; fused from two thirds of the depth on"
    from avmae_nb.config import ENCODERS
    from avmae_nb.tasks import finetune_preset
    c = finetune_preset('vggsound-finetune')
    own = c.classifier.replace(encoder_stack=ENCODERS['B'].replace(layers=layers), fusion_layer=layers * 2 // 3, remat='none' if policy == 'plain' else policy)
    return c.replace(classifier=own, **{'train.batch': 1})

def memory(name: str, layers: int) -> dict:
    "Bytes of temporaries of the step, and of the gradient alone"
    import jax
    from avmae_nb import devices
    from avmae_nb.train.abstract import abstract_step
    from avmae_nb.train.finetune import Classification, build_classifier
    from avmae_nb.train.learner import Weights, as_terms, total_loss
    from flax import nnx
    c = configuration(layers, name)
    objective, weights = Classification(c), Weights(nnx.eval_shape(lambda: build_classifier(c)))
    with variant(name):
        step, state, batch = abstract_step(c, devices.mesh())
        whole = step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes
        key = jax.eval_shape(lambda: jax.random.key(0))
        ready = jax.eval_shape(lambda b, k: objective.prepare(b, k, 0.), batch, key)
        loss = lambda p, b, k: total_loss(as_terms(objective(weights.merge(p), b, k, 0.)))
        alone = jax.jit(jax.value_and_grad(loss)).lower(weights.initial, ready, key).compile().memory_analysis().temp_size_in_bytes
    return {'temporary_bytes': whole, 'gradient_temporary_bytes': alone}

class Trainer:
    "A learner of one variant, and its last metrics"
    def __init__(self, name: str, layers: int):
        import numpy as np
        from avmae_nb.train.finetune import Classification, build_classifier
        from avmae_nb.train.learner import Learner, Settings
        from avmae_nb.train.optim import optimizer
        from pretrain_step import random_batch
        c = configuration(layers, name)
        self.name, self.first, self.config, self.cpu = name, None, c, []
        self.learner = Learner(build_classifier(c), Classification(c), optimizer(c.optim, c.learning_rate, 1000, 100), settings=Settings(devices=None))
        self.batch = {**random_batch(c), 'label': np.zeros(1, np.int32)}
    def step(self):
        begin = time.process_time()
        with variant(self.name): metrics = self.learner.step(self.batch)   # the first call traces
        told = {k: float(metrics[k]) for k in ('loss', 'gradient_norm')}
        self.first = self.first or told
        self.cpu.append(time.process_time() - begin)

def agree(trainers: list[Trainer]):
    "Stop where variants do not compute the same"
    plain = trainers[0].first
    for t in trainers[1:]:
        for k, v in plain.items():
            if abs(t.first[k] - v) > 1e-4 * max(abs(v), 1e-3): sys.exit(f'{t.name}: {k} is {t.first[k]}, of the plain one {v}')

def measure(layers: int, rounds: int, policies) -> dict:
    "Times in turn, then memory at full depth"
    from avmae_nb.devices import gemm_peak
    from avmae_nb.model.flops import step_flops
    trainers = [Trainer(n, layers) for n in ('plain', *policies)]
    peaks = [gemm_peak()]
    times = interleaved({t.name: t.step for t in trainers}, rounds)
    agree(trainers)
    peaks.append(gemm_peak())
    flops, found = step_flops(trainers[0].config), {n: summary(t) for n, t in times.items()}
    rows = {t.name: {**found[t.name], 'cpu_seconds': statistics.median(t.cpu[-rounds:]), 'first': t.first, 'share_of_peak': flops / found[t.name]['seconds'] / max(peaks)} for t in trainers}
    for name, row in rows.items():
        if name != 'plain': row['speed'] = ratio(times['plain'], times[name])
    return {'layers': layers, 'flops': flops, 'gemm_peak': max(peaks), 'variants': rows}

def table(found: dict) -> str:
    "For a reader"
    lines = [f'MBT-B, 3136 + 400 tokens, batch 1: seconds of {found["layers"]} layers, temporaries of 12; peak {found["gemm_peak"] / 1e9:.0f} GFLOP/s']
    for name, row in found['variants'].items():
        speed = f', {row["speed"]["ratio"]:.2f}x plain ({row["speed"]["interval"][0]:.2f} to {row["speed"]["interval"][1]:.2f})' if 'speed' in row else ''
        lines.append(f'  {name:<10} {row["seconds"]:6.2f} s a step, {row["cpu_seconds"]:5.1f} CPU s, {row["share_of_peak"]:4.0%} of peak{speed}; {row["temporary_bytes"] / 2**30:5.2f} GiB of temporaries, {row["gradient_temporary_bytes"] / 2**30:5.2f} of the gradient')
    return '\n'.join(lines)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--layers', type=int, default=3, help='that are timed: a multiple of 3')
    p.add_argument('--rounds', type=int, default=5); p.add_argument('--only', nargs='+', choices=POLICIES, default=list(POLICIES))
    p.add_argument('--out', type=Path, help='JSON file')
    args = p.parse_args()
    os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
    found = {'bench': 'finetune_step', 'machine': machine(), **measure(args.layers, args.rounds, args.only), **resident()}
    for name, row in found['variants'].items(): row |= memory(name, 12)
    print(table(found))
    if args.out: args.out.write_text(json.dumps(found, indent=1) + '\n')

if __name__ == '__main__': main()
