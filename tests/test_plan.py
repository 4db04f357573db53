"Plans: FLOPs against the compiler's count, recomputation exact and smaller, slices by name, the search, one small compilation for a TPU"
import json
from importlib.util import find_spec
import jax, jax.numpy as jnp, numpy as np, pytest
from flax import nnx
from avmae_nb.config import ConfigError, Stack, preset
from avmae_nb.hardware import gpus, tpu_slice
from avmae_nb.model.flops import forward_flops, recomputed_flops, step_flops
from avmae_nb.model.transformer import Transformer
from avmae_nb.plan import ahead, plan as plans
from avmae_nb.plan.ahead import Compiled, PlanError, compile_for
from avmae_nb.plan.roofline import estimated_bytes, parameter_count, roofline, training_clips
from avmae_nb.tasks import finetune_preset
from avmae_nb.train.abstract import REMAT, abstract_batch, abstract_step
from avmae_nb.train.finetune import Classification, build_classifier
from avmae_nb.train.learner import Learner
from avmae_nb.train.optim import constant_optimizer
from avmae_nb.train.pretrain import MaskedReconstruction, build_model
from toys import toy_config, toy_tuning

def batch_of(config):
    "Noise in the shape of a batch"
    make = lambda shape, dtype: jnp.ones(shape, dtype) if dtype in ('bool', 'int32') else jax.random.normal(jax.random.key(0), shape).astype(dtype)
    return {**abstract_batch(config, make), 'example_mask': jnp.ones(config.train.batch)}

def loss_of(config):
    "Loss as a function of the parameters, and the parameters"
    tune = 'classifier' in config.to_dict()
    model, objective = (build_classifier(config), Classification(config)) if tune else (build_model(config), MaskedReconstruction(config))
    ready = objective.prepare(batch_of(config), jax.random.key(1), 0.)
    graph, params = nnx.split(model)
    return lambda p: sum(t.scale * t.total / t.weight for t in objective(nnx.merge(graph, p), ready, jax.random.key(2), 0.).values()), params

WIDE = Stack(64, 3, 2, 256)
COUNTED = {'separate': toy_config(**{'model.encoder': 'separate', 'model.encoder_stack': WIDE, 'model.decoder_stack': WIDE}),
           'mid, early': toy_config(**{'model.decoder': 'early', 'model.encoder_stack': WIDE, 'model.decoder_stack': WIDE}),
           'inpainting': toy_config(**{'model.objective': 'inpainting', 'model.encoder_stack': WIDE, 'model.decoder_stack': WIDE}),
           'MBT': toy_tuning(**{'classifier.encoder_stack': WIDE, 'classifier.stochastic_depth': 0.}),
           'one modality': toy_tuning(**{'classifier.encoder_stack': WIDE, 'classifier.stochastic_depth': 0.}).only('video')}

@pytest.mark.parametrize('name', COUNTED)
def test_flops_are_those_of_the_compiler(name, monkeypatch):
    "With loops unrolled XLA counts every layer; it adds norms, softmax and GELU, which are not products"
    scan, config = jax.lax.scan, COUNTED[name]
    monkeypatch.setattr(jax.lax, 'scan', lambda *a, **kw: scan(*a, **{**kw, 'unroll': True}))
    loss, params = loss_of(config)
    count = lambda f: (lambda c: (c[0] if isinstance(c, list) else c)['flops'])(jax.jit(f).lower(params).compile().cost_analysis())
    forward, step = sum(forward_flops(config).values()) * config.train.batch, step_flops(config)
    assert 0.85 < forward / count(loss) <= 1.0
    assert 0.85 < step / count(jax.grad(loss)) <= 1.02

def test_recomputation_is_exact():
    "MBT with dropped branches, 4 layers alone and 4 fused; the autoencoder is in test_model.py"
    config, grads = toy_tuning(**{'classifier.encoder_stack': Stack(16, 8, 2, 32), 'classifier.fusion_layer': 4}), {}
    for remat in REMAT:
        loss, params = loss_of(config.replace(**{'classifier.remat': remat}))
        params['head']['kernel'] = params['head']['kernel'].replace(jnp.ones((16, 16)))   # zeros would hide the rest
        grads[remat] = jax.tree.leaves(jax.jit(jax.grad(loss))(params))
    for remat in REMAT[1:]:
        for a, b in zip(grads['none'], grads[remat]): np.testing.assert_allclose(a, b, atol=2e-5 * max(1, float(jnp.abs(a).max())))

def test_recomputation_needs_less_memory():
    "16 layers on a long input: every policy keeps less than the one before"
    sizes = []
    for remat in REMAT:
        graph, params = nnx.split(Transformer(Stack(32, 16, 2, 128), remat=remat, rngs=nnx.Rngs(0)))
        gradient = jax.jit(jax.grad(lambda p, x: (nnx.merge(graph, p)(x) ** 2).sum()))
        sizes.append(gradient.lower(params, jax.ShapeDtypeStruct((4, 400, 32), jnp.float32)).compile().memory_analysis().temp_size_in_bytes)
    assert all(a > 1.1 * b for a, b in zip(sizes, sizes[1:])), sizes

def test_recomputed_flops_grow_with_the_policy():
    c = preset('vggsound')
    each = [recomputed_flops(c.replace(**{'model.remat': r})) for r in REMAT]
    assert each == sorted(each) and 0 < each[0] < each[1]
    assert recomputed_flops(preset('tiny')) < recomputed_flops(preset('tiny').replace(**{'model.remat': 'block'})) < step_flops(preset('tiny')) / 2

@pytest.mark.parametrize('text, message', [('v5:4x4', "did you mean 'v5"), ('v3', 'v3:4x4'), ('v3:4x4x4', '2 axes'), ('v4:4x4', 'v4:2x2x1'), ('v3:0x4', '2 axes'), ('v3:1x4', 'at least one host'), ('v6e:axb', '2 axes')])
def test_slices_that_do_not_exist(text, message):
    with pytest.raises(ConfigError, match=message): tpu_slice(text)

def test_slices():
    assert [(s, m.chips, m.devices) for s in ('v3:4x4', 'v4:2x2x4', 'v5e:16x16', 'tpu7x:2x2x1') for m in [tpu_slice(s)]] == [('v3:4x4', 16, 32), ('v4:2x2x4', 16, 16), ('v5e:16x16', 256, 256), ('tpu7x:2x2x1', 4, 8)]

def test_the_abstract_step_is_the_learners(tmp_path):
    "The same program, text for text, as the one that a learner runs"
    config = toy_config()
    learner = Learner(build_model(config), MaskedReconstruction(config), constant_optimizer(config.learning_rate, 1000, config.optim))
    ours = abstract_step(config.replace(**{'optim.schedule': 'constant', 'optim.warmup_epochs': 0.}), learner.mesh)
    assert ours[0].lower(*ours[1:]).as_text() == learner.update.lower(learner.state, ours[2]).as_text()

def test_without_the_compiler(monkeypatch):
    monkeypatch.setattr(ahead, 'find_spec', lambda name: None)
    with pytest.raises(PlanError, match=r'pip install "avmae_nb\[tpu-plan\]"'): compile_for(preset('tiny'), 'v3:2x2')

def fake(limit):
    "A compiler that believes the estimate"
    tried = []
    def compile(config, machine, level='O0'):
        tried.append(config)
        needs = estimated_bytes(config, tpu_slice(machine).devices)
        return Compiled(needs <= limit, needs, 0, needs, limit, wire=0)
    return compile, tried

def test_search_takes_the_cheapest_setting_that_fits(monkeypatch):
    c = preset('vggsound')
    limit = estimated_bytes(c.replace(**{'model.remat': 'block'}), 32)
    compile, tried = fake(limit)
    monkeypatch.setattr(plans, 'compile_for', compile)
    found = plans.plan('vggsound', 'v3:4x4')
    assert not found.fits and found.instead == {'model.remat': 'block'} and 'DOES NOT FIT' in repr(found) and 'model.remat=block' in repr(found)
    assert plans.plan('vggsound', 'v3:4x4', search=False).instead is None

def test_search_shards_the_weights_before_it_changes_the_batch(monkeypatch):
    "Weights alone are too large for a device: no recomputation helps"
    c = preset('vggsound')
    compile, tried = fake(int(6 * 4 * parameter_count(c) / 2.5))
    monkeypatch.setattr(plans, 'compile_for', compile)
    found = plans.plan(c, 'v3:4x4')
    assert found.instead and found.instead['train.fsdp'] > 1 and 'train.batch' not in found.instead

def test_nothing_fits(monkeypatch):
    monkeypatch.setattr(plans, 'compile_for', fake(1000)[0])
    assert 'no setting that fits' in repr(plans.plan('vggsound', 'v3:4x4'))

def test_batches_that_do_not_divide():
    with pytest.raises(ConfigError, match='multiple of 32'): plans.plan(preset('tiny'), 'v3:4x4')

def test_gpus():
    found = plans.plan('vggsound', gpus('H100', 8), price=30.)
    assert found.compiled is None and found.fits and 'estimated' in repr(found) and '8 x H100' in repr(found)
    half = plans.plan(preset('vggsound').replace(**{'model.dtype': 'bfloat16'}), gpus('H100', 8))
    assert half.roofline.arithmetic == pytest.approx(found.roofline.arithmetic / 2)
    assert json.loads(json.dumps(plans.plan_dict(found)))['price_an_hour'] == 30
    with pytest.raises(ConfigError, match='H100'): gpus('H1000')

def test_clips_are_asked_for():
    with pytest.raises(ConfigError, match='data.clips=NUMBER'): training_clips(preset('tiny').replace(**{'data.source': 'folder'}))
    assert training_clips(finetune_preset('audioset-finetune')) == 508_994

COMPILER = pytest.mark.skipif(find_spec('libtpu') is None, reason='libtpu is not installed: pip install "avmae_nb[tpu-plan]"')

@COMPILER
def test_a_small_step_compiles_for_a_tpu_that_is_not_here():
    "Sharded over 8 devices of 4 chips: it fits, and gradients are summed over the devices"
    config = toy_config()
    found = compile_for(config, 'v3:2x2')
    assert found.fits and 'libtpu' in found.versions and found.temporary > 0
    count, size = found.collectives['all-reduce']
    assert count >= 1 and size >= 4 * parameter_count(config) * 0.9 and found.wire > size

@COMPILER
def test_long_attention_is_a_kernel():
    "520 tokens of sound, spread over the devices: one kernel forward and two backward, which the compiler accepts"
    found = compile_for(toy_config(**{'audio.seconds': 10.4}), 'v5e:2x2')
    assert found.fits and found.kernels >= 3

@COMPILER
def test_what_does_not_fit_says_by_how_much():
    "512 clips a device of which little is masked, for a v5e of 16 GB"
    config = preset('vggsound').replace(**{'model.size': 'tiny', 'model.positions': 'sinusoidal_3d', 'train.batch': 2048, 'video.mask.ratio': 0.1, 'audio.mask.ratio': 0.1})
    found = compile_for(config, 'v5e:2x2')
    assert not found.fits and found.needs > found.limit > 14 * 2**30
