"The training step and loop with the real model: exact accumulation, the guard, schedules, checkpoints by name, callbacks, rehearsals"
import json
import sys
import jax, numpy as np, pytest
from flax import nnx
from avmae_nb.config import ConfigError, Mask, Optim
from avmae_nb.train.callbacks import read_log
from avmae_nb.train.checkpoint import CheckpointError, Checkpoints
from avmae_nb.train.evaluate import cross_modal_gain, masked_error
from avmae_nb.train.learner import Diverged, Learner, Weights, abstract_state, apply_update, initial_state
from avmae_nb.train.optim import constant_optimizer, leaf_names, kernels, optimizer
from avmae_nb.train.pretrain import MaskedReconstruction, build_model, load, pretrain
import avmae_nb.train.rehearsal
from toys import toy_config

def close(a, b, tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)): np.testing.assert_allclose(x, y, atol=tolerance * max(1e-3, float(np.abs(y).max())), rtol=0)

def first_update(config, batch, accumulate=1):
    learner = Learner(build_model(config), MaskedReconstruction(config), constant_optimizer(1e-2, 4, Optim(kind='sgd', momentum=0, weight_decay=0))._replace(accumulate=accumulate))
    return learner.state, learner.update(learner.state, batch)

@pytest.fixture(scope='module')
def batch(): return pretrain(toy_config()).loader.batch_at(0)

def test_accumulation_is_exact_with_ranged_masks_padding_and_missing_modalities(batch):
    config = toy_config(**{'audio.mask': Mask(ratio=(0.3, 0.9)), 'video.mask': Mask(ratio=(0.25, 0.75), drop=0.3)})
    given = {**batch, 'example_mask': np.array([1, 1, 0, 1, 1, 0, 0, 1], np.float32), 'present/audio': np.array([1, 1, 1, 0, 1, 1, 1, 1], bool), 'present/video': np.ones(8, bool)}
    (_, (a, m)), (_, (b, n)) = (first_update(config, given, k) for k in (1, 4))
    for k in ('loss', 'loss/video', 'loss/audio', 'gradient_norm'): np.testing.assert_allclose(m[k], n[k], rtol=1e-5)
    close(a.params, b.params, 1e-5)

def test_only_kernels_decay():
    params = initial_state(Weights(build_model(toy_config())).initial, constant_optimizer(1.)).params
    marked = dict(zip(leaf_names(params), jax.tree.leaves(kernels(params))))
    assert any(marked.values()) and not all(marked.values())
    for name, decays in marked.items(): assert decays == name.endswith('kernel'), name
    for word in ('bias', 'scale', 'token', 'positions'): assert not any(d for n, d in marked.items() if word in n.split('.')[-1])

def test_schedule_against_the_release(oracle):
    for name, warmup, epochs in ('lr_vggsound_pretrain', 4, 400), ('lr_audioset_finetune', 2.5, 50):
        z = np.load(oracle/f'{name}.npz')
        total, base = int(z['total_steps']), float(z['base_learning_rate'])
        ours, released = (optimizer(Optim(warmup_epochs=warmup, schedule=kind), base, total, total / epochs).schedule for kind in ('cosine', 'cyclic'))
        before = z['steps'] < total
        np.testing.assert_allclose(jax.vmap(ours)(z['steps'][before]), z['learning_rate'][before], atol=2e-6 * base)
        assert float(ours(total + 5)) == 0   # the released schedule starts again here
        np.testing.assert_allclose(jax.vmap(released)(z['steps']), z['learning_rate'], atol=2e-6 * base)

@pytest.mark.parametrize('poison', ['video', 'audio'])
def test_guard_skips_and_then_stops(tmp_path, poison):
    config = toy_config(**{'train.nan_limit': 3, 'train.eval_clips': 0})
    learner = pretrain(config, tmp_path/'run')
    class Poisoned:
        source, steps_per_epoch = learner.source, 4
        def batches(self, start, inner=learner.loader):
            for n, b in enumerate(inner.batches(start), start + 1):
                if n == 3 or n > 6: b = {**b, poison: np.full(b[poison].shape, np.nan, np.float32)}
                yield b
    learner.loader = Poisoned()
    with pytest.raises(Diverged, match=r'up to step 9; the weights are still those after step 6. last good checkpoint: step (4|8)'): learner.fit()
    skipped = {r['step']: r['skipped'] for r in read_log(tmp_path/'run')}
    assert (skipped[2], skipped[3], skipped[6], skipped[9]) == (0, 1, 1, 4)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(learner.state.params)))

def test_load_latest_best_and_averaged(tmp_path):
    config = toy_config(**{'optim.ema': 0.9, 'train.keep': 1})
    learner = pretrain(config, tmp_path/'run').fit()
    averaged, same = load(tmp_path/'run')
    assert same == config
    close(jax.device_get(nnx.split(averaged)[1]), jax.device_get(nnx.split(learner.averaged)[1]), 0)
    losses = {r['step']: r['eval/loss'] for r in learner.history if 'eval/loss' in r}
    assert Checkpoints(tmp_path/'run').best == min(losses, key=losses.get)
    load(tmp_path/'run', 'best', ema=False), load(tmp_path/'run', 16)
    with pytest.raises(CheckpointError, match='no checkpoint of step 5'): load(tmp_path/'run', 5)

def test_run_folder_holds_all(tmp_path):
    pretrain(toy_config(**{'train.log_to': ['tensorboard']}), tmp_path/'run').fit()
    names = {p.name for p in (tmp_path/'run').iterdir()}
    assert {'config.yaml', 'versions.json', 'log.jsonl', 'checkpoints', 'tensorboard'} <= names
    assert {'jax', 'flax', 'python'} <= set(json.loads((tmp_path/'run'/'versions.json').read_text()))
    log = read_log(tmp_path/'run')
    assert [r['step'] for r in log if 'loss' in r] == list(range(1, 17)) and [r['step'] for r in log if 'eval/loss' in r] == [8, 16]
    assert {'loss', 'loss/video', 'loss/audio', 'learning_rate', 'gradient_norm', 'time'} <= set(log[0])

def test_bfloat16_trains():
    losses = [r['loss'] for r in pretrain(toy_config(**{'model.dtype': 'bfloat16', 'train.eval_clips': 0})).fit().history]
    assert np.isfinite(losses).all() and np.mean(losses[-4:]) < np.mean(losses[:4])

def test_fast_and_rehearsals_disturb_nothing(tmp_path):
    run = tmp_path/'run'
    learner = pretrain(toy_config(), run)
    before, files = jax.device_get(learner.state), sorted(p.name for p in run.rglob('*'))
    assert learner.overfit(3, steps=12).clips == 3
    assert learner.lr_find(steps=12).losses
    assert pretrain(toy_config(), run, fast=True).fit().run is None
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(jax.device_get(learner.state))): np.testing.assert_array_equal(a, b)
    assert (learner.steps_done, learner.history) == (0, []) and sorted(p.name for p in run.rglob('*')) == files

def test_limit_uses_only_the_first_clips():
    learner = pretrain(toy_config(), limit=8)
    assert set(np.concatenate([learner.loader.batch_at(i)['index'] for i in range(3)])) == set(range(8))

def test_trackers_that_are_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(ConfigError, match='pip install wandb'): pretrain(toy_config(**{'train.log_to': ['wandb']}))

RUNS = {'inpainting': {'model.objective': 'inpainting'}, 'video only': {'audio': None}, 'all at once': {'model.normalise_targets': True, 'audio.mask': Mask(ratio=(0.3, 0.8), drop=0.2), 'data.missing': 'mask', 'optim.decay': 'released'}}

@pytest.mark.parametrize('name', RUNS)
def test_every_kind_of_run_trains_and_is_evaluated(name):
    config = toy_config(**RUNS[name], **{'train.steps': 4})
    learner = pretrain(config).fit()
    found = masked_error(learner.model, learner.evaluate.batches, config)
    assert list(found.model) == list(config.modalities) and all(np.isfinite(list(d.values())).all() for d in (found.model, found.mean_patch, found.nearest_in_time))
    if name == 'all at once': assert list(cross_modal_gain(learner.model, learner.evaluate.batches, config).errors) == ['video', 'audio']

@pytest.mark.parametrize('optim', [Optim(), Optim(kind='sgd', clip_norm=1.0, layer_decay=0.75, ema=0.999)], ids=['adam', 'sgd'])
def test_an_update_changes_weights_and_moments_in_place(optim):
    "The compiled update sets next to nothing aside: no copy of the moments, of the gradients or of the weights"
    params = {f'blocks.{i}': {'kernel': jax.ShapeDtypeStruct((4, 256, 256), np.float32)} for i in range(3)}
    opt = optimizer(optim, 1e-3, 100, 10)
    update = jax.jit(lambda state, grads, ok: apply_update(state, grads, opt, ok), donate_argnums=0)
    if optim.kind == 'sgd' and jax.__version_info__ < (0, 8): pytest.skip('JAX 0.7.2 sets a copy of the momentum aside; Adam it does not')
    memory = update.lower(abstract_state(params, opt), params, jax.ShapeDtypeStruct((), bool)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.05 * 3 * 4 * 256 * 256 * 4, memory
