"Features, probes, retrieval and probing: independent of batch size and devices, nothing leaks between modalities, scikit-learn's numbers, the share of the run's time"
import dataclasses
import jax, numpy as np, pytest
from avmae_nb import cli
from avmae_nb.config import ConfigError
from avmae_nb.data.sources import open_source
from avmae_nb.train.callbacks import read_log
from avmae_nb.train.features import Features, FixedClips, clip_batches, features, raw_features
from avmae_nb.train.pretrain import build_model, pretrain
from avmae_nb.train.probes import chance_of, knn_probe, linear_probe, score_interval, score_of, standardiser
from avmae_nb.train.probing import ProbeCallback, Thirds, probe_model
from avmae_nb.train.retrieval import own_ranks, retrieval
from toys import rows, toy_config

def scrambled(config, seed=3):
    "A model whose weights are all away from their initial values, so that every path matters"
    from flax import nnx
    graph, state = nnx.split(build_model(config))
    leaves, structure = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return nnx.merge(graph, jax.tree.unflatten(structure, [x + 0.15 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)]))

@pytest.mark.parametrize('encoder', ['early', 'shared', 'separate', 'mid'])
def test_features_and_retrieval_do_not_depend_on_the_batch_size(encoder):
    config = toy_config(**{'model.encoder': encoder})
    model, source = scrambled(config), open_source(config.data, 'eval')
    found = [features(model, clip_batches(source, config, 11, batch), config) for batch in (1, 3, 8)]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].index, other.index)
        np.testing.assert_array_equal(found[0].labels, other.labels)
        for view in found[0].values: np.testing.assert_allclose(found[0].matrix(view), other.matrix(view), atol=2e-5)
    fitted = features(model, open_source(config.data, 'train'), config, clips=16)
    for how in ('ridge', 'whitened') if encoder != 'separate' else ('ridge',):
        ranks = [retrieval(f, fitted, how).ranks for f in found]
        for direction in ranks[0]:
            for other in ranks[1:]: np.testing.assert_array_equal(ranks[0][direction], other[direction])

@pytest.mark.parametrize('encoder', ['early', 'mid'])
def test_a_view_of_one_modality_has_not_seen_the_other(encoder):
    config = toy_config(**{'model.encoder': encoder})
    model = scrambled(config)
    batch = next(iter(clip_batches(open_source(config.data, 'eval'), config, 4, 4)))
    other = {**batch, 'audio': batch['audio'][::-1]}
    a, b = features(model, [batch], config), features(model, [other], config)
    np.testing.assert_array_equal(a.matrix('video'), b.matrix('video'))
    np.testing.assert_allclose(a.matrix('audio'), b.matrix('audio')[::-1], atol=2e-5)
    assert np.abs(a.view('video+audio')['video'] - b.view('video+audio')['video']).max() > 1e-3

def test_devices_do_not_matter(run_python):
    code = """import sys; sys.path.insert(0, 'tests')
from avmae_nb.data.sources import open_source
from avmae_nb.train.features import features
from avmae_nb.train.pretrain import build_model
from toys import toy_config
c = toy_config()
f = features(build_model(c), open_source(c.data, 'eval'), c, clips=6)
print(len(f), ' '.join(f'{x:.6f}' for x in f.matrix('video+audio').ravel()))"""
    one, two = (run_python(code, devices=n).split() for n in (1, 2))
    assert one[0] == two[0] == '6'
    np.testing.assert_allclose(np.array(one[1:], float), np.array(two[1:], float), atol=2e-5)

def test_one_modality_alone():
    config = toy_config(video=None)
    found = features(scrambled(config), open_source(config.data, 'eval'), config, clips=4)
    assert list(found.values) == ['audio']
    with pytest.raises(ConfigError, match='two modalities'): retrieval(found)
    with pytest.raises(ConfigError, match='retrieval needs two modalities'): pretrain(config.replace(**{'train.probe': ['retrieval']})).fit()

def made_up(n, seed, classes=5, width=12):
    rng = np.random.default_rng(seed)
    labels, centres = rng.integers(classes, size=n), np.random.default_rng(9).normal(size=(classes, width))
    x = (centres[labels] + 1.5 * rng.normal(size=(n, width))).astype(np.float32) * np.geomspace(0.01, 100, width).astype(np.float32)
    return Features({'audio': {'audio': x}}, {'audio': np.ones(n, bool)}, np.arange(n), labels, {'class': [f'c{i}' for i in range(classes)]})

def test_linear_probe_is_logistic_regression():
    linear = pytest.importorskip('sklearn.linear_model')
    train, test = made_up(400, 0), made_up(150, 1)
    ready, l2 = standardiser(train.matrix('audio')), 0.03
    x, y = ready(train.matrix('audio')), ready(test.matrix('audio'))
    found = linear_probe(train, test, 'audio', (l2,))
    theirs = linear.LogisticRegression(C=1 / (l2 * len(x)), tol=1e-9, max_iter=5000).fit(x, train.labels).predict_proba(y)
    ours = np.exp(found.logits - found.logits.max(1, keepdims=True))
    np.testing.assert_allclose(ours / ours.sum(1, keepdims=True), theirs, atol=1e-3)
    assert found.score == pytest.approx((theirs.argmax(1) == test.labels).mean(), abs=0.01) and found.above_chance
    many = lambda f: dataclasses.replace(f, labels=np.stack([f.labels == 0, f.labels >= 3, f.labels < 0], 1).astype(np.float32), kind='multi', heads={'tag': ['a', 'b', 'empty']})
    found = linear_probe(many(train), many(test), 'audio', (l2,))
    for k in (0, 1):
        one = linear.LogisticRegression(C=1 / (l2 * len(x)), tol=1e-9, max_iter=5000).fit(x, many(train).labels[:, k]).predict_proba(y)[:, 1]
        np.testing.assert_allclose(1 / (1 + np.exp(-found.logits[:, k])), one, atol=1e-3)
    metrics = pytest.importorskip('sklearn.metrics')
    assert found.score == pytest.approx(np.mean([metrics.average_precision_score(many(test).labels[:, k], found.logits[:, k]) for k in (0, 1)]))

def test_knn_is_that_of_scikit_learn():
    neighbors = pytest.importorskip('sklearn.neighbors')
    train, test = made_up(300, 0), made_up(100, 1)
    ready = standardiser(train.matrix('audio'))
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    weights = lambda distance: np.exp((1 - distance**2 / 2) / 0.07)   # distance of unit vectors to cosine
    theirs = neighbors.KNeighborsClassifier(20, weights=weights, algorithm='brute').fit(unit(ready(train.matrix('audio'))), train.labels).predict_proba(unit(ready(test.matrix('audio'))))
    np.testing.assert_allclose(knn_probe(train, test, 'audio').logits, theirs, atol=2e-4)

def test_intervals_cover():
    "The 95% bootstrap interval holds the true accuracy about 95 times in 100"
    rng, inside = np.random.default_rng(0), 0
    for i in range(100):
        hit = rng.random(200) < 0.4
        low, high = score_interval(np.stack([hit, ~hit], 1).astype(float), np.zeros(200, int), seed=i)
        inside += low <= 0.4 <= high
    assert 88 <= inside <= 100

def test_chance_of_many_labels_is_that_of_a_random_order():
    rng = np.random.default_rng(0)
    labels = (rng.random((40, 3)) < [0.05, 0.3, 0.8]).astype(float)
    assert chance_of(labels) == pytest.approx(np.mean([score_of(rng.random((40, 3)), labels) for _ in range(3000)]), abs=0.01)

def test_what_cannot_be_probed_is_told():
    train, test = made_up(40, 0), made_up(20, 1)
    with pytest.raises(ConfigError, match='none of the 20 test clips has audio and a label'): linear_probe(train, dataclasses.replace(test, present={'audio': np.zeros(20, bool)}), 'audio')
    with pytest.raises(ConfigError, match='different classes'): knn_probe(train, dataclasses.replace(test, heads={'class': list('abcde')}), 'audio')
    with pytest.raises(ConfigError, match='no labels'): linear_probe(dataclasses.replace(train, labels=None), test, 'audio')
    with pytest.raises(ConfigError, match="did you mean 'audio'"): linear_probe(train, test, 'audoi')

def test_collapsed_features_find_nothing():
    assert own_ranks(np.ones((30, 4)), np.ones((30, 4))).tolist() == [30] * 30
    noise = np.ones((30, 4)) + 1e-9 * np.random.default_rng(0).normal(size=(30, 4))
    assert own_ranks(noise, noise).min() == 30   # equal but for rounding

def test_constant_columns_do_not_blow_up():
    train, test = made_up(60, 0), made_up(30, 1)
    dead = lambda f, value: dataclasses.replace(f, values={'audio': {'audio': np.concatenate([f.matrix('audio'), np.full((len(f), 1), value, np.float32)], 1)}})
    a, b = linear_probe(train, test, 'audio', (0.1,)), linear_probe(dead(train, 7.0), dead(test, 8.0), 'audio', (0.1,))
    np.testing.assert_allclose(a.logits, b.logits, atol=1e-4)

def test_clips_without_sound_count_only_where_they_can():
    config = toy_config()
    batch = next(iter(clip_batches(open_source(config.data, 'eval'), config, 8, 8)))
    flags = {**batch, 'present/video': np.ones(8, bool), 'present/audio': np.arange(8) % 2 == 0}
    found = features(scrambled(config), [flags], config)
    assert found.usable('audio').sum() == 4 and found.usable('video').sum() == 8 and found.usable('video+audio').sum() == 4
    assert retrieval(found, found).clips == 4
    assert raw_features([flags], config).usable('audio').sum() == 4

def test_probing_changes_nothing_and_is_logged(tmp_path):
    config = toy_config(**{'train.eval_every': 16, 'train.checkpoint_every': 16})
    source, test = (open_source(config.data, s) for s in ('train', 'eval'))
    plain = pretrain(config, tmp_path/'plain').fit()
    probed = pretrain(config, tmp_path/'probed', [ProbeCallback(source, test, 8, ('knn', 'linear', 'raw', 'retrieval'), (16, 8), 1.0)]).fit()
    found = [r for r in read_log(tmp_path/'probed') if 'probe/knn' in r]
    assert [r['step'] for r in found] == [8, 16]
    assert {'probe/linear', 'probe/raw', 'probe/retrieval', 'probe/chance', 'probe/share', 'probe/knn/audio', 'probe/retrieval/audio_to_video_R@1'} <= set(found[0])
    assert rows(plain.history) == [r for r in rows(probed.history) if 'probe/knn' not in r]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(plain.state.params), jax.device_get(probed.state.params))

def test_from_the_configuration_and_the_terminal(tmp_path, capsys):
    config = toy_config(**{'train.probe': ['knn'], 'train.probe_clips': 16})
    learner = pretrain(config, tmp_path/'run').fit()
    assert [c.kinds for c in learner.callbacks if isinstance(c, ProbeCallback)] == [('knn',)]
    assert 'learner.probe()' in capsys.readouterr().out   # the run is too short for 5%
    assert pretrain(config.replace(**{'train.probe': [], 'train.probe_clips': 64}), tmp_path/'run').steps_done == 16   # may change within a run
    assert cli.main(['probe', str(tmp_path/'run'), '--kinds', 'linear,raw,retrieval', '--clips', '16', 'data.world=hard']) == 0
    out = capsys.readouterr().out
    assert 'linear     encoder   video+audio' in out and 'linear     raw' in out and 'all against all' in out
    assert cli.main(['probe', str(tmp_path/'run'), '--kinds', 'liner']) == 2
    assert "did you mean 'linear'" in capsys.readouterr().err
    assert learner.probe(kinds=('attentive',), clips=(16, 8)).metrics().keys() == {'probe/attentive', 'probe/attentive/audio', 'probe/attentive/video', 'probe/chance'}

def test_without_labels():
    config = toy_config()
    class Bare(Thirds):
        labels = None
        def __init__(self, kept): super().__init__(open_source(config.data, 'train'), kept); self.classes = None
        def label(self, i): return None
        def read(self, *args): return dataclasses.replace(super().read(*args), label=None)
    with pytest.raises(ConfigError, match='has no labels'): ProbeCallback(Bare(False), kinds=('knn',))
    report = probe_model(scrambled(config), Bare(False), Bare(True), config, ('retrieval',), (12, 6))
    assert not report.tables and report.retrieval.clips == 6

def test_clips_in_both_splits_are_told():
    config = toy_config()
    source = open_source(config.data, 'train')
    assert '8 of 8 test clips are among the training clips' in repr(probe_model(scrambled(config), source, source, config, ('knn',), (8, 8)))

def test_batches_are_read_once_where_they_fit():
    config, read = toy_config(), []
    source = open_source(config.data, 'eval')
    class Counting(Thirds):
        def read(self, i, *args): read.append(i); return super().read(i, *args)
    clips = FixedClips(Counting(source, True), config, 8)
    first, again = list(clips), list(clips)
    assert len(read) == 8 and all((a['video'] == b['video']).all() for a, b in zip(first, again))

@pytest.mark.parametrize('source, clips, heads, metric', [('told-multi', 32, ['class'], 'mAP'), ('told-heads', 32, ['motion', 'material'], 'accuracy'), ('synthetic', 16, ['event'], 'mAP')])
def test_labels_of_every_kind(source, clips, heads, metric):
    config = toy_config(**{'data.source': source, **({'data.world': 'events', 'audio.seconds': 2.0} if source == 'synthetic' else {})})   # labels by second want a window of seconds
    report = probe_model(scrambled(config), *(open_source(config.data, s) for s in ('train', 'eval')), config, ('knn', 'linear', 'raw'), (clips, clips))
    assert list(report.tables) == heads or metric == 'mAP'
    assert {r.metric for t in report.tables.values() for r in t} == {metric}
    if source == 'told-heads': assert 'probe/linear/material/audio' in report.metrics() and report.tables['material'].find('knn', 'audio').clips[1] < report.tables['motion'].find('knn', 'audio').clips[1]
    if source == 'told-multi': assert report.tables['class'].find('knn', 'audio').clips[1] < clips   # some have no label
