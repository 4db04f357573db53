"Fine-tuning with the real model, world and loader: every kind of labels, modality and architecture learns; resume; the same scores however clips are batched; errors"
import json
import jax, numpy as np, pytest
from flax import nnx
from avmae_nb.config import ConfigError, Data, Model
from avmae_nb.data.sources import open_source
from avmae_nb.interop.handout import hand_out, open_model
from avmae_nb.train.callbacks import read_log
from avmae_nb.train.checkpoint import read_metric, saved_steps
from avmae_nb.train.finetune import ERROR, Classification, finetune, load_finetuned
from avmae_nb.train.predictions import predict
import avmae_nb.train.rehearsal   # gives the Learner `overfit`
from avmae_nb.train.scores import compare_modalities, score
from avmae_nb.train.pretrain import pretrain
from avmae_nb.view.curves import plot_loss
from toys import STACK, rows, toy_config, toy_tuning

KINDS = {'single': {}, 'multi': {'labels': 'multi', 'classifier.classes': (9,), 'data.source': 'told-multi'}, 'heads': {'labels': 'heads', 'classifier.classes': (4, 4), 'data.source': 'told-heads'},
         'seconds': {'labels': 'seconds', 'classifier.classes': (17,), 'classifier.seconds': 10, 'data.world': 'events', 'audio.seconds': 1.28, 'video.fps': 3.0},
         'audio': {'video': None}, 'video': {'audio': None},
         **{f'{e} encoder': {'encoder': Model(encoder=e, encoder_stack=STACK, fusion_depth=1), 'classifier.stochastic_depth': 0.0} for e in ('mid', 'separate')}}
FIRST = {'multi': 'mAP', 'heads': 'action', 'seconds': 'accuracy'}

@pytest.mark.parametrize('kind', KINDS)
def test_loss_falls_and_is_evaluated(kind):
    "With little augmentation eight clips are learned by heart; the evaluation speaks of the kind of labels"
    plain = dict(mixup_video=0.0, mixup_audio=0.0, smoothing=0.0, time_masks=0, frequency_masks=0, time_shift=False, colour=0.0, grey=0.0)
    c = toy_tuning(augment=plain, **KINDS[kind])
    learner = finetune(c)
    assert {'eval/error', 'eval/loss', f'eval/{FIRST.get(c.labels, "top-1")}'} <= set(learner.evaluate(learner))
    assert learner.overfit(8, steps=40, learning_rate=3e-3).fall > 0.1

class StopAt:
    def __init__(self, step): self.step = step
    def at_step(self, learner, step):
        if step == self.step: raise KeyboardInterrupt

@pytest.fixture(scope='module')
def tuned(tmp_path_factory):
    "An uninterrupted run from a pre-trained one, and the same stopped twice; the pre-trained run is gone by then"
    folder = tmp_path_factory.mktemp('runs')
    pretrain(toy_config(**{'train.steps': 4, 'train.eval_clips': 0}), folder/'pre').fit()
    c = toy_tuning(init=str(folder/'pre'))
    finetune(c, folder/'whole').fit()
    finetune(c, folder/'part', [StopAt(5)]).fit()
    (folder/'pre').rename(folder/'gone')
    finetune(c, folder/'part', [StopAt(9)]).fit()
    finetune(c, folder/'part').fit()
    return folder

def test_resume_to_the_bit(tuned):
    assert rows(read_log(tuned/'part')) == rows(read_log(tuned/'whole'))
    a, b = (load_finetuned(tuned/name)[0] for name in ('part', 'whole'))
    for x, y in zip(jax.tree.leaves(jax.tree.map(np.asarray, nnx.state(a))), jax.tree.leaves(jax.tree.map(np.asarray, nnx.state(b)))): np.testing.assert_array_equal(x, y)

def test_run_folder(tuned):
    assert {'config.yaml', 'versions.json', 'log.jsonl', 'init.txt', 'checkpoints'} <= {p.name for p in (tuned/'whole').iterdir()}
    assert 'restored  streams.audio' in (tuned/'whole/init.txt').read_text()
    errors = {r['step']: r['eval/error'] for r in read_log(tuned/'whole') if 'eval/error' in r}
    kept = {s: read_metric(tuned/'whole/checkpoints'/str(s), ERROR) for s in saved_steps(tuned/'whole')}
    assert min(kept.values()) == pytest.approx(min(errors.values())) and all(kept[s] == pytest.approx(errors[s]) for s in kept if s in errors)
    load_finetuned(tuned/'whole', 'best')

def test_the_card_of_the_best_checkpoint_is_of_its_step(tuned):
    "Best by error, as the weights are, not by the loss of pre-training"
    errors = {s: read_metric(tuned/'whole/checkpoints'/str(s), ERROR) for s in saved_steps(tuned/'whole')}
    step = min((s for s in errors if np.isfinite(errors[s])), key=errors.get)
    folder = hand_out(tuned/'whole', tuned/'given', 'best')
    assert f'Steps: {step} of batch' in (folder/'README.md').read_text()
    want, got = (jax.tree.leaves(nnx.state(m, nnx.Param)) for m in (load_finetuned(tuned/'whole', step)[0], open_model(folder).model))
    for x, y in zip(want, got): np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
    names = open_model(folder).class_names
    assert names == open_model(tuned/'whole').class_names and [len(n) for n in names.values()] == [16] and len(set(*names.values())) == 16

def test_changed_options_are_refused(tuned):
    with pytest.raises(ConfigError, match='augment.smoothing: 0.1 in the run, 0.2 now'): finetune(toy_tuning(init=str(tuned/'pre'), **{'augment.smoothing': 0.2}), tuned/'whole')
    with pytest.raises(ConfigError, match='no such file or folder'): finetune(toy_tuning(init=str(tuned/'pre')))

def test_same_batch_for_the_same_key():
    c = toy_tuning()
    learner = finetune(c)
    batch = learner.loader.batch_at(3)
    a, b, other = (jax.device_get(Classification(c).prepare(batch, jax.random.key(k), 0.0)) for k in (0, 0, 1))
    assert all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))
    assert not np.array_equal(a['inputs']['audio'], other['inputs']['audio']) and not np.array_equal(a['drops']['video'], other['drops']['video'])

def given(kind):
    "A classifier that has learned a little, its held-out clips and configuration"
    c = toy_tuning(**{'train.steps': 3, 'train.eval_clips': 0, 'data.clips': 21, **KINDS[kind]})
    return finetune(c).fit().model, open_source(c.data, 'eval'), c

@pytest.mark.parametrize('kind', ['single', 'heads', 'seconds'])
def test_scores_do_not_depend_on_the_batch(kind):
    model, source, c = given(kind)
    a, b = (predict(model, source, c.replace(**{'train.batch': n}), views=2) for n in (3, 7))
    assert a.names == b.names and (a.labels == b.labels).all() and a.index.tolist() == list(range(21))
    np.testing.assert_allclose(a.logits, b.logits, atol=1e-5)
    x, y = score(a, 100), score(b, 100)
    assert x.values == pytest.approx(y.values, abs=1e-12) and str(x) == str(y)

def test_views_are_averaged_logits():
    from avmae_nb.data.loader import eval_batches
    model, source, c = given('single')
    two = predict(model, source, c, views=2)
    each = []
    for k in range(2):
        with eval_batches(source, c, None, (k, 2)) as batches: each.append(np.concatenate([np.asarray(model.predict({m: b[m].astype(np.float32) * (2 / 255) - 1 if m == 'video' else b[m] for m in c.modalities}))[b['example_mask'] > 0] for b in batches]))
    np.testing.assert_allclose(two.logits, (each[0] + each[1]) / 2, atol=1e-5)

DEVICES = '''
import sys, json, jax, numpy as np
sys.path.insert(0, "tests")
from toys import toy_tuning
from avmae_nb.data.sources import open_source
from avmae_nb.train.finetune import finetune
from avmae_nb.train.predictions import predict
learner = finetune(toy_tuning(**{"train.steps": 3, "train.eval_every": 3, "data.clips": 21})).fit()
p = predict(learner.model, open_source(learner.config.data, "eval"), learner.config)
print(json.dumps(dict(devices=jax.device_count(), losses=[r["loss"] for r in learner.history if "loss" in r], error=learner.history[-1]["eval/error"], logits=p.logits.tolist(), labels=p.labels.tolist())))
'''

def test_one_device_or_eight(run_python):
    "Training with mixup and drops, and evaluation with padding"
    one, eight = (json.loads(run_python(DEVICES, devices=n).splitlines()[-1]) for n in (1, 8))
    assert (one['devices'], eight['devices']) == (1, 8) and one['labels'] == eight['labels'] and one['error'] == eight['error']
    np.testing.assert_allclose(eight['losses'], one['losses'], rtol=1e-5)
    np.testing.assert_allclose(eight['logits'], one['logits'], atol=1e-5)

@pytest.mark.parametrize('kind', ['single', 'mid encoder'])
def test_missing_modality(kind):
    model, source, c = given(kind)
    table = compare_modalities(model, source, c)
    assert list(table.rows) == ['A', 'V', 'AV'] and [s.modalities for s in table.rows.values()] == [('audio',), ('video',), ('video', 'audio')]
    assert all(len(line.split('[')) == 4 for line in repr(table).splitlines()[1:4])
    with pytest.raises(ConfigError, match='this model has'): compare_modalities(model, source, c, ('AX',))

def test_unlabelled_clips_and_empty_classes_are_reported():
    model, source, c = given('multi')
    found = score(predict(model, source, c), 100)
    assert found.clips == 19 and found.left_out['without label'] == 2 and 'nothing' in found.missing['class'] and '2 without label' in str(found)

def test_clips_without_a_modality():
    "Zeros stand for it, and its logits do not count"
    import dataclasses
    from toys import Told
    model, _, c = given('single')
    class Deaf(Told):
        def load(self, i, start, request):
            clip = self.base.load(i, start, request)
            return dataclasses.replace(clip, audio=None) if i == 1 else clip
    source = Deaf(c.data, 'eval', open_source(c.data).labels, None)
    found = predict(model, source, c.replace(**{'data.missing': 'mask'}))
    assert len(found) == 21
    learner = finetune(c.replace(**{'data.missing': 'mask', 'train.steps': 2}))
    batch = {**learner.loader.batch_at(0), 'present/audio': np.zeros(8, bool), 'present/video': np.ones(8, bool)}
    assert np.isfinite(float(learner.step(batch)['loss']))

def test_mismatches_say_what_to_do():
    with pytest.raises(ConfigError, match='set classifier.classes=16'): finetune(toy_tuning(**{'classifier.classes': (7,)}))
    with pytest.raises(ConfigError, match="set labels='single'"): finetune(toy_tuning(labels='multi'))
    with pytest.raises(ConfigError, match='set classifier.seconds=10'): finetune(toy_tuning(**{**KINDS['seconds'], 'classifier.seconds': 4}))

def test_folder_without_labels(root):
    with pytest.raises(ConfigError, match='has no labels: give Data.labels'): finetune(toy_tuning(data=Data(source='folder', path=str(root/'avmae_nb/clips'))))

def test_terminal(tuned, capsys):
    "From a pre-trained run to a table, and one-line mistakes"
    from avmae_nb.cli import main
    def run(*words):
        code = main([str(w) for w in words])
        return (code, *capsys.readouterr())
    small = ['video.frames=4', 'video.size=16', 'video.short_side=16', 'audio.seconds=0.32', 'data.clips=16', 'train.batch=8', 'train.steps=2', 'train.eval_clips=8']
    code, out, _ = run('finetune', '--init', tuned/'gone', '--fit', '--run', tuned/'cli', *small)
    assert code == 0 and 'parameters restored' in out and f'avmae evaluate {tuned/"cli"}' in out
    code, out, _ = run('evaluate', tuned/'cli', '--views', '2', '--modalities', 'A,AV', '--save', tuned/'scores.json')
    assert code == 0 and 'top-1' in out and '16 clips' in out and 'taken for' in out and {'A', 'AV'} == set(json.loads((tuned/'scores.json').read_text()))
    assert ', error, learning rate)' in plot_loss(tuned/'cli').alt
    code, out, _ = run('show', tuned/'cli', '--clips', '8')
    assert code == 0 and '8 clips, 1 view' in out and (tuned/'cli/pictures/loss.png').exists() and (tuned/'cli/summary.txt').read_text() in out
    code, out, _ = run('export', tuned/'cli', tuned/'saved')
    assert code == 0
    again = ['--views', '2', '--modalities', 'A,AV', 'data.source=synthetic', 'data.clips=16', 'train.batch=8', '--save', tuned/'again.json']
    assert run('evaluate', tuned/'saved', *again)[0] == 0 and json.loads((tuned/'again.json').read_text()) == json.loads((tuned/'scores.json').read_text())
    for words, message in [(('evaluate', tuned/'saved'), 'does not say on which clips'), (('evaluate', tuned/'cli', 'data.world=events'), '17 classes in each of 10 seconds'), (('evaluate', tuned/'gone'), 'is a pre-training run: fine-tune it first'), (('evaluate', tuned/'cli', '--modalities', 'X'), 'this model has V (video), A (audio)'),
                           (('view', tuned/'cli'), 'is a fine-tuning run and holds a classifier'), (('probe', tuned/'cli'), 'is a fine-tuning run and holds a classifier'),
                           (('finetune', '--preset', 'tiny-finetun'), "did you mean 'tiny-finetune'?"), (('finetune', '--init', tuned/'cli', *small), 'is a fine-tuning run'), (('finetune', 'augment.smothing=0.1'), "did you mean 'smoothing'?")]:
        code, _, err = run(*words)
        assert code == 2 and message in err and len(err.strip().splitlines()) == 1, err
