"Every encoder x decoder x objective learns; the properties that the method rests on"
import itertools
import jax, jax.numpy as jnp, numpy as np, optax, pytest
from flax import nnx
from hypothesis import given, settings, strategies as st
from avmae_nb.config import Mask, Modality, Model, Stack
from avmae_nb.model.mae import AVMAE, reconstruct
from avmae_nb.config import MASK_KINDS
from avmae_nb.model.masking import all_hidden, make_mask, make_masks
from avmae_nb.model.patching import patchify, unpatchify

MODS = {'video': Modality((4, 16, 16), (2, 8, 8), 3, 1.), 'audio': Modality((32, 16), (8, 8), 1, 1.)}
TOY = Model(encoder_stack=Stack(24, 2, 2, 48), decoder_stack=Stack(24, 2, 2, 48), fusion_depth=1, decoder_fusion_depth=1)
MASKS = {'video': Mask(ratio=0.75), 'audio': Mask(ratio=0.6)}
KINDS = ('early', 'shared', 'separate', 'mid')

def toy_inputs(batch=4):
    "Low-rank signals common to both modalities: something to learn in a few steps"
    z = jax.random.normal(jax.random.key(0), (batch, 1))
    pattern = lambda i, v: jnp.sin(jnp.linspace(0, 9 + i, int(np.prod(v.shape)) * v.channels)).reshape(1, *v.shape, v.channels)
    return {m: z.reshape(batch, *[1] * (len(v.shape) + 1)) * pattern(i, v) for i, (m, v) in enumerate(MODS.items())}

def train(model, inputs, masks, steps=25):
    "Losses of a few Adam steps on one batch"
    graph, params = nnx.split(model)
    tx = optax.adam(1e-2)
    @jax.jit
    def step(params, opt):
        (loss, _), grads = jax.value_and_grad(lambda p: nnx.merge(graph, p).loss(inputs, masks), has_aux=True)(params)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, loss
    opt, losses = tx.init(params), []
    for _ in range(steps):
        params, opt, loss = step(params, opt)
        losses.append(float(loss))
    return losses

@pytest.mark.parametrize('encoder,decoder,objective', list(itertools.product(KINDS, KINDS, ('joint', 'inpainting'))))
def test_every_combination_learns(encoder, decoder, objective):
    masks = make_masks(jax.random.key(1), MODS, MASKS, 4)
    losses = train(AVMAE(TOY.replace(encoder=encoder, decoder=decoder, objective=objective), MODS, nnx.Rngs(0)), toy_inputs(), masks)
    assert np.isfinite(losses).all() and losses[-1] < 0.7 * losses[0], losses[::6]

@pytest.mark.parametrize('changes', [dict(objective='inpainting', inpainting='displaced'), dict(modality_tokens=True), dict(normalise_targets=True), dict(scored='all'),
                                     dict(remat='block'), dict(remat='everything'), dict(dtype='bfloat16'), dict(positions='learned'), dict(positions='learned_space_time'), dict(positions='sinusoidal_3d')], ids=str)
def test_every_option_learns(changes):
    masks = make_masks(jax.random.key(1), MODS, MASKS, 4)
    losses = train(AVMAE(TOY.replace(encoder='mid', **changes), MODS, nnx.Rngs(0)), toy_inputs(), masks, 40)
    assert np.isfinite(losses).all() and losses[-1] < 0.85 * losses[0], losses[::8]

@pytest.mark.parametrize('name', MODS)
def test_single_modality_learns(name):
    mods, inputs = {name: MODS[name]}, {name: toy_inputs()[name]}
    losses = train(AVMAE(TOY, mods, nnx.Rngs(0)), inputs, make_masks(jax.random.key(1), mods, MASKS, 4))
    assert losses[-1] < 0.7 * losses[0]

def test_separate_everything_is_two_independent_autoencoders():
    "Table A3's baseline: changing one modality changes nothing of the other"
    model, inputs, masks = AVMAE(TOY.replace(decoder='separate'), MODS, nnx.Rngs(0)), toy_inputs(), make_masks(jax.random.key(1), MODS, MASKS, 4)
    graph, params = nnx.split(model)
    grads = jax.grad(lambda p: nnx.merge(graph, p).loss({**inputs, 'audio': inputs['audio'] + 1}, masks)[1]['video'])(params)
    touched = {jax.tree_util.keystr(k) for k, v in jax.tree_util.tree_leaves_with_path(grads) if float(jnp.abs(v).max()) > 0}
    assert touched and not any('audio' in t for t in touched), touched

def test_bfloat16_is_near_float32():
    inputs, masks = toy_inputs(), make_masks(jax.random.key(1), MODS, MASKS, 4)
    exact, half = (AVMAE(TOY.replace(encoder='mid', dtype=d), MODS, nnx.Rngs(0)) for d in ('float32', 'bfloat16'))
    a, b = (m.encode(inputs, masks) for m in (exact, half))
    for m in MODS: np.testing.assert_allclose(np.asarray(a[m]), np.asarray(b[m], np.float32), atol=0.1)
    assert b['video'].dtype == jnp.bfloat16

def test_remat_gives_the_same_gradients():
    inputs, masks = toy_inputs(), make_masks(jax.random.key(1), MODS, MASKS, 4)
    def grads(remat):
        graph, params = nnx.split(AVMAE(TOY.replace(remat=remat), MODS, nnx.Rngs(0)))
        return jax.tree.leaves(jax.grad(lambda p: nnx.merge(graph, p).loss(inputs, masks)[0])(params))
    for remat in ('attention', 'block', 'everything'):
        for a, b in zip(grads('none'), grads(remat)): np.testing.assert_allclose(a, b, atol=1e-6)

@settings(max_examples=12, deadline=None)
@given(st.sampled_from(MASK_KINDS), st.floats(0, 0.97), st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)), st.integers(0, 2**31 - 1))
def test_masks_partition_the_grid(kind, ratio, grid, seed):
    mask = make_mask(jax.random.key(seed), grid, Mask(kind=kind, ratio=ratio), 2)
    n, hidden = int(np.prod(grid)), np.asarray(mask.hidden())
    np.testing.assert_array_equal(np.sort(np.asarray(mask.order), 1), np.tile(np.arange(n), (2, 1)))
    groups = {'tube': grid[1] * grid[2], 'time': grid[0], 'same_time': grid[0], 'frequency': grid[-1]}.get(kind, n)
    expected = n if kind == 'modality' else int(ratio * groups) * (n // groups)
    np.testing.assert_array_equal(hidden.sum(1), expected)
    np.testing.assert_array_equal(np.sort(np.asarray(mask.visible), 1), [np.flatnonzero(~h) for h in hidden])

@settings(max_examples=12, deadline=None)
@given(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)), st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)), st.integers(1, 4))
def test_patchify_inverts(grid, patch, channels):
    modality = Modality(tuple(g * p for g, p in zip(grid, patch)), patch, channels)
    x = np.random.default_rng(0).normal(size=(2, *modality.shape, channels)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(unpatchify(patchify(jnp.asarray(x), modality), modality)), x)

def test_a_ratio_that_varies_compiles_once():
    graph, params = nnx.split(AVMAE(TOY.replace(encoder='mid'), MODS, nnx.Rngs(0)))
    inputs, masks = toy_inputs(), {m: Mask(ratio=(0.2, 0.9), drop=0.2) for m in MODS}
    loss = jax.jit(lambda p, key: nnx.merge(graph, p).loss(inputs, make_masks(key, MODS, masks, 4))[0])
    values = [float(loss(params, jax.random.key(i))) for i in range(4)]
    assert loss._cache_size() == 1 and np.isfinite(values).all()

def test_withheld_modality():
    "With everything of one modality hidden a fusing model still predicts all of it, from the other alone"
    inputs = toy_inputs()
    masks = {**make_masks(jax.random.key(1), MODS, MASKS, 4), 'audio': all_hidden(4, MODS['audio'].tokens)}
    model = AVMAE(TOY.replace(encoder='mid'), MODS, nnx.Rngs(0))
    other = {**inputs, 'audio': inputs['audio'] * 0 + 5}
    a, b = (reconstruct(model, x, masks)['audio'] for x in (inputs, other))
    np.testing.assert_array_equal(np.asarray(a.prediction), np.asarray(b.prediction))
    assert bool(a.hidden.all()) and bool(a.predicted.all())
