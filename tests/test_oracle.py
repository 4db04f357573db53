"Recorded cases of the reference: the few kept here, and all of the oracle where it is at hand"
import json, os
from pathlib import Path
import jax, numpy as np, pytest
from flax import nnx
import oracle
from avmae_nb.config import Modality, Model, Stack
from avmae_nb.interop.names import blank, parameters, released_names, set_parameters, to_released
from avmae_nb.model.mae import AVMAE
from avmae_nb.model.mbt import MBT, Classifier, mean_logits

HERE = Path(__file__).parent
SHARED = Path(os.environ.get('AVMAE_SHARED', HERE.parents[1] / 'shared')) / 'oracle'
KEPT = sorted((HERE / 'oracle_cases').glob('*.npz'))
ALL = sorted(SHARED.glob('*.npz'))

def check(path):
    status, text = oracle.run_case(path)
    assert status == 'pass', f'{path.stem}: {status}: {text}'

@pytest.mark.parametrize('path', KEPT, ids=lambda p: p.stem)
def test_kept_case(path): check(path)

@pytest.mark.parametrize('path', [p for p in ALL if p.name not in {k.name for k in KEPT}] or [pytest.param(None, marks=pytest.mark.skip(reason=f'no recorded cases in {SHARED}: set AVMAE_SHARED'))], ids=lambda p: p.stem if p else 'absent')
def test_recorded_case(path): check(path)

def rewrite(tmp_path, name, **changes):
    with np.load(HERE / 'oracle_cases' / f'{name}.npz', allow_pickle=False) as z: np.savez(tmp_path / f'{name}.npz', **{**{k: z[k] for k in z.files}, **changes})

def test_a_wrong_number_fails(tmp_path, capsys):
    rewrite(tmp_path, 'map_all_classes', **{'summary/mAP': np.float64(0.5)})
    assert oracle.main(tmp_path) == 1
    assert 'mAP' in capsys.readouterr().out

def test_an_unknown_case_is_unsupported(tmp_path, capsys):
    np.savez(tmp_path / 'strange.npz', a=np.ones(3))
    assert oracle.main(tmp_path) == 0
    assert '1 unsupported' in capsys.readouterr().out

def test_a_damaged_file_fails(tmp_path):
    (tmp_path / 'cut.npz').write_bytes((HERE / 'oracle_cases/map_all_classes.npz').read_bytes()[:500])
    assert oracle.main(tmp_path) == 1

def test_an_empty_folder_fails(tmp_path): assert oracle.main(tmp_path) == 1

# Cases of kinds that were not recorded, written by the model itself: the runner must find its way through their names and options

def fill(net, seed=0):
    rng = np.random.default_rng(seed)
    set_parameters(net, {k: rng.normal(size=x.shape).astype(np.float32) * 0.3 for k, x in parameters(net).items()})
    return net

def write_pretrain(path, model, naming=None, shapes=None, meta=None, example_mask=None, weights=(0.5, 0.5)):
    "A pre-training case in the layout of the recordings"
    shapes = shapes or {'video': (4, 32, 32), 'audio': (96, 32)}
    mods = {m: Modality(s, (2, 16, 16)[-len(s):], 3 if len(s) == 3 else 1, 1., w) for (m, s), w in zip(shapes.items(), weights)}
    net = fill(blank(lambda: AVMAE(model, mods, nnx.Rngs(0))))
    table, rng = released_names(net, naming), np.random.default_rng(1)
    arrays = {f'params/{k}': v for k, v in to_released(net, None, table).items()}
    for m, v in mods.items():
        order = np.stack([rng.permutation(v.tokens) for _ in range(3)]).astype(np.int32)
        arrays |= {f'inputs/{oracle.theirs(m)}': rng.normal(size=(3, *v.shape, v.channels)).astype(np.float32), f'mask/{oracle.theirs(m)}/unmasked_indices': order[:, :3], f'mask/{oracle.theirs(m)}/masked_indices': order[:, 3:]}
    strategies = {'encoder_strategy': {v: k for k, v in oracle.ENCODERS.items()}[model.encoder], 'decoder_strategy': {v: k for k, v in oracle.DECODERS.items()}[model.decoder]}
    kinds = {v: k for k, v in oracle.POSITIONS.items()}
    config = {'model': {**strategies, 'positional_embedding': kinds[model.positions], 'positional_embedding_decoder': kinds[model.decoder_positions or model.positions], 'use_inpainting': False},
              'masked_feature_loss': {'target': [oracle.theirs(m) for m in mods] if naming is None else 'rgb', 'modality_weight': {oracle.theirs(m): w for m, w in zip(mods, weights)}, 'normalise_by_output_dimension': True,
                                      'loss_unmasked_tokens': model.scored == 'all', 'standardise_per_patch': model.normalise_targets}}
    np.savez(path, __meta__=json.dumps({'config': config}), **arrays)
    case = oracle.Case(path)
    found, loss, each, grads = oracle.compiled(net)(oracle.inputs_of(case), oracle.masks_of(net, case), example_mask)
    arrays |= {'loss': loss, **{f'grads/{k}': v for k, v in to_released(net, grads, table).items()}, **{f'encoder_output/{oracle.theirs(m)}': x for m, x in found['out']['encoded'].items()}}
    if example_mask is not None: arrays['batch_mask'] = example_mask
    np.savez(path, __meta__=json.dumps({'config': config}), **arrays)
    return path

TOY = Model(encoder='mid', encoder_stack=Stack(24, 2, 2, 16), decoder_stack=Stack(12, 1, 2, 16), fusion_depth=1)
VARIANTS = {'no_fusion': dict(model=TOY.replace(fusion_depth=0)), 'all_fused': dict(model=TOY.replace(fusion_depth=2)), 'learned': dict(model=TOY.replace(positions='learned', decoder_positions='sinusoidal')),
            'learned_in_the_decoder': dict(model=TOY.replace(decoder_positions='learned')), 'padding': dict(model=TOY, example_mask=np.array([1, 1, 0], np.float32)), 'all_tokens': dict(model=TOY.replace(scored='all')),
            'weights': dict(model=TOY, weights=(0.3, 0.9)), 'uneven': dict(model=TOY, shapes={'video': (5, 40, 32), 'audio': (100, 40)}),
            'video_learned': dict(model=TOY.replace(encoder='early', decoder='shared', positions='learned'), naming='video', shapes={'video': (4, 32, 32)}, weights=(1.,)),
            'video_space_time': dict(model=TOY.replace(encoder='early', decoder='shared', positions='learned_space_time'), naming='video', shapes={'video': (4, 32, 32)}, weights=(1.,)),
            'separate_decoders': dict(model=TOY.replace(encoder='shared', decoder='separate', modality_tokens=True, normalise_targets=True))}

@pytest.mark.parametrize('name', VARIANTS)
def test_unrecorded_pretraining(name, tmp_path): check(write_pretrain(tmp_path / 'case.npz', **VARIANTS[name]))

def write_mbt(path, model, names, listed, **options):
    "A fine-tuning case in the layout of the recordings; `listed`: the order in which the release names the modalities"
    mods = {m: Modality((4, 32, 32), (2, 16, 16), 3) if m == 'video' else Modality((96, 32), (16, 16), 1) for m in names}
    net, rng = fill(blank(lambda: MBT(model, mods, nnx.Rngs(0)))), np.random.default_rng(1)
    table = released_names(net, listed[0])
    arrays = {f'params/{k}': v for k, v in to_released(net, None, table).items()} | {f'inputs/{oracle.theirs(m)}': rng.normal(size=(3, *v.shape, v.channels)).astype(np.float32) for m, v in mods.items()}
    if len(names) == 1: arrays['params/bottleneck'] = np.zeros((1, 4, 24), np.float32)
    arrays['label'] = np.eye(sum(model.classes), dtype=np.float32)[[0, 2, 1]]
    out = nnx.jit(lambda net, x: net(x))(net, {m: arrays[f'inputs/{oracle.theirs(m)}'] for m in names})
    arrays['eval_logits'] = mean_logits(out['logits'])
    arrays['encoder_output'] = np.concatenate([out['encoded'][m] for m in listed], 1)
    config = {'model': {'modality_fusion': [oracle.theirs(m) for m in listed], 'fusion_layer': model.fusion_layer, 'num_layers': 2, 'use_bottleneck': True, **options}, 'model_name': 'mbt_classification'}
    np.savez(path, __meta__=json.dumps({'config': config}), **arrays)
    return path

FINE = Classifier(classes=(5,), fusion_layer=1, encoder_stack=Stack(24, 2, 2, 16))
@pytest.mark.parametrize('model, names, listed', [(FINE, ['video', 'audio'], ['audio', 'video']), (FINE.replace(fusion_layer=0, bottlenecks=2), ['video', 'audio'], ['video', 'audio']),
                                                  (FINE.replace(modality_tokens=True, fusion_layer=2), ['video', 'audio'], ['video', 'audio']), (FINE, ['video'], ['video'])], ids=['audio_first', 'fused_everywhere', 'never_fused', 'video'])
def test_unrecorded_fine_tuning(model, names, listed, tmp_path): check(write_mbt(tmp_path / 'case.npz', model, names, listed))

def test_other_architectures_are_unsupported(tmp_path):
    for option in ({'share_encoder': True}, {'use_bottleneck': False}, {'classifier': 'token'}, {'representation_size': 8}):
        status, text = oracle.run_case(write_mbt(tmp_path / 'case.npz', FINE, ['video', 'audio'], ['video', 'audio'], **option))
        assert status == 'unsupported', (option, status, text)
