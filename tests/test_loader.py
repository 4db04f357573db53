"The loader: one stream for any number of workers and hosts, resumable, bad clips replaced, errors by name"
import os, signal, sys, threading
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from avmae_nb.config import ConfigError, preset
from avmae_nb.data.loader import Batches, Loader, LoaderError, Report, crop, eval_batches, eval_indices, logmel_statistics
from avmae_nb.data.media import Clip, MediaError, Request
from avmae_nb.data.sources import Source

SMALL = preset('tiny').replace(**{'video.frames': 2, 'video.size': 16, 'video.short_side': 24, 'video.crop': 'random', 'video.flip': True, 'video.tubelet': (2, 8, 8),
                                  'audio.seconds': 0.16, 'train.batch': 4})

class Plain(Source):
    "Clips that say which clip and window they are; picklable, so that workers can have it"
    classes = ['a', 'b']
    def __init__(self, count=10, bad=(), mute=(), blind=(), silent=(), bug=()):
        self.count, self.bad, self.mute, self.blind, self.silent, self.bug = count, bad, mute, blind, silent, bug
    def __len__(self): return self.count
    def name(self, i): return f'{i}.mp4'
    def label(self, i): return i % 2
    def duration(self, i): return 8.0
    def load(self, i, start, request):
        if i in self.bad: raise MediaError(f'{i}.mp4: video stream ends at 0.3 s')
        if i in self.bug: raise KeyError('moov')
        rng = np.random.default_rng([i, int((start or 0) * 1000)])
        video = rng.integers(0, 255, (request.frames, request.short_side, request.short_side + 4, 3), np.uint8) if request.frames else None
        audio = rng.standard_normal(request.samples).astype(np.float32) * (i not in self.silent)
        return Clip(None if i in self.blind else video, None if i in self.mute else audio, self.name(i), i % 2, start=start or 0.0)

class Spy(Plain):
    "Says what its process is like"
    def load(self, i, start, request):
        clip = super().load(i, start, request)
        backends = getattr(sys.modules.get('jax._src.xla_bridge'), '_backends', {})
        said = (f'pid {os.getpid()}', f'threads {os.environ.get("OMP_NUM_THREADS")}', f'platforms {sys.modules["jax"].config.jax_platforms if "jax" in sys.modules else None}',
                f'sigint {signal.getsignal(signal.SIGINT) == signal.SIG_IGN}', f'backends {len(backends)}')
        return Clip(clip.video, clip.audio, clip.name, clip.label, flags=said)

def same(a, b):
    assert list(a) == list(b)
    for k in a: np.testing.assert_array_equal(a[k], b[k], k)

def test_batches_as_promised():
    b = Loader(Plain(), SMALL).batch_at(0)
    assert {k: (v.shape, v.dtype.name) for k, v in b.items()} == {'video': ((4, 2, 16, 16, 3), 'uint8'), 'audio': ((4, 16, 128), 'float32'), 'example_mask': ((4,), 'float32'),
                                                                  'index': ((4,), 'int32'), 'label': ((4,), 'int32')}
    assert (b['label'] == b['index'] % 2).all()

@pytest.mark.parametrize('workers', [1, 2])
def test_same_stream_with_workers(workers):
    "Also: bad clips, their report, and resuming with another number of workers"
    source = Plain(bad=(3,), silent=(4,))
    here, there = Loader(source, SMALL), Loader(source, SMALL.replace(**{'data.workers': workers}))
    with here.batches() as a: a = [next(a) for _ in range(5)]
    with there.batches() as b:
        for x in a:
            y = next(b)
            same(x, y)
            assert all(type(v) is np.ndarray for v in y.values())
    with there.batches(start_step=3) as b: same(a[3], next(b))
    assert here.report.clips.keys() == {('3.mp4', 'unreadable'), ('4.mp4', 'silent')} and there.report.clips == here.report.clips
    assert len({t.pid for t in __import__('multiprocessing').active_children()}) == 0

def test_workers_are_modest_and_errors_arrive_by_name():
    loader = Loader(Spy(), SMALL.replace(**{'data.workers': 1}))
    with loader.batches() as b: next(b)
    said = {problem for _, problem in loader.report.clips}
    assert {'threads 1', 'platforms cpu', 'sigint True', 'backends 0'} <= said, said
    assert f'pid {os.getpid()}' not in said
    with Loader(Plain(bug=range(10)), SMALL.replace(**{'data.workers': 1})).batches() as b, pytest.raises(LoaderError, match=r"^\d.mp4: KeyError: 'moov'$"): next(b)

@given(count=st.integers(1, 30), batch=st.integers(1, 7), seed=st.integers(0, 5))
def test_epochs_are_complete_and_reshuffled(count, batch, seed):
    loader = Loader(Plain(count), SMALL.replace(**{'train.batch': batch, 'train.seed': seed, 'video': None}))
    data = loader.dataset()
    seen = np.concatenate([data[i]['index'] for i in range(-(-3 * count // batch))])[:3 * count].reshape(3, count)
    assert (np.sort(seen, 1) == np.arange(count)).all()
    if count > 8: assert (seen[0] != seen[1]).any() and (seen[1] != seen[2]).any()

@settings(max_examples=12)
@given(world=st.integers(1, 4), count=st.integers(1, 13), step=st.integers(0, 40))
def test_hosts_share_one_stream(world, count, step):
    config = SMALL.replace(**{'train.batch': 12, 'video': None})
    whole = Loader(Plain(count), config).batch_at(step)
    parts = [Loader(Plain(count), config, shard=(r, world)).batch_at(step) for r in range(world)]
    for k in whole: np.testing.assert_array_equal(np.concatenate([p[k] for p in parts]), whole[k])   # side by side, in order: masks go by row

def test_seed_changes_order_and_windows():
    a, b = (Loader(Plain(), SMALL.replace(**{'train.seed': s})).batch_at(0) for s in (0, 1))
    assert (a['index'] != b['index']).any()

@settings(max_examples=8)
@given(bad=st.sets(st.integers(0, 9), max_size=8))
def test_bad_clips_change_nothing_else(bad):
    bad = tuple(bad)
    whole, holes = Loader(Plain(), SMALL), Loader(Plain(bad=bad), SMALL)
    for step in range(3):
        a, b = whole.batch_at(step), holes.batch_at(step)
        good = ~np.isin(a['index'], bad)
        for k in a: np.testing.assert_array_equal(a[k][good], b[k][good])
        assert not np.isin(b['index'], bad).any()
        same(b, Loader(Plain(bad=bad), SMALL).batch_at(step))
    assert {c['index'] for c in holes.report.clips.values()} <= set(bad)

def test_missing_modalities():
    source = Plain(mute=(0, 1, 2), blind=(2, 3))
    b = Loader(source, SMALL, limit=10).batch_at(0)
    assert not np.isin(b['index'], (0, 1, 2, 3)).any() and 'present/audio' not in b
    config = SMALL.replace(**{'data.missing': 'mask', 'train.batch': 10})
    b = Loader(source, config).batch_at(0)
    first = [list(b['index']).index(i) for i in (0, 1, 3)]
    assert not b['present/audio'][first[:2]].any() and not b['present/video'][first[2]] and 2 not in b['index']
    assert not b['audio'][first[:2]].any() and (b['video'][first[2]] == 128).all()
    with pytest.raises(LoaderError, match='has no audio.*missing='): Loader(source, config.replace(**{'data.missing': 'error'})).batch_at(0)
    assert Loader(source, config.replace(audio=None, **{'data.missing': 'error'}), limit=2).batch_at(0)['video'].shape[0] == 10   # sound is not asked for

def test_nothing_usable():
    with pytest.raises(LoaderError, match='20 clips in a row cannot be used'): next(Loader(Plain(bad=range(10)), SMALL).batches())
    with pytest.raises(ConfigError, match='no clips'): Loader(Plain(0), SMALL)
    with pytest.raises(LoaderError, match='no clip of the source has sound'): logmel_statistics(Plain(mute=range(10)), SMALL)

def test_silence_is_used_but_flagged(tmp_path):
    loader = Loader(Plain(silent=(5,)), SMALL.replace(**{'train.batch': 10}), report=Report(tmp_path/'bad_clips.jsonl'))
    assert 5 in loader.batch_at(0)['index'] and loader.report.counts['silent'] == 1
    assert '"name": "5.mp4", "problem": "silent"' in (tmp_path/'bad_clips.jsonl').read_text()
    with (tmp_path/'bad_clips.jsonl').open('a') as f: f.write('{"name": "cut o')   # by a kill
    assert len(Report(tmp_path/'bad_clips.jsonl')) == 1

def test_limit_and_fixed():
    loader = Loader(Plain(), SMALL, limit=4, fixed=True)
    a, b = loader.batch_at(0), loader.batch_at(7)
    assert loader.steps_per_epoch == 1
    for k in a: np.testing.assert_array_equal(a[k][np.argsort(a['index'])], b[k][np.argsort(b['index'])])

@settings(max_examples=12)
@given(count=st.integers(1, 20), clips=st.integers(1, 25), world=st.sampled_from([1, 2, 4]))
def test_evaluation_counts_each_clip_once(count, clips, world):
    batches = [list(eval_batches(Plain(count, bad=(1,)), SMALL, clips, shard=(r, world))) for r in range(world)]
    assert len({len(b) for b in batches}) == 1
    used = np.concatenate([x['index'][x['example_mask'] > 0] for b in batches for x in b])
    assert sorted(used) == [i for i in eval_indices(Plain(count), clips) if i != 1]
    for b in batches: assert all(x['video'].shape[0] == 4 // world for x in b)

def test_evaluation_is_fixed_and_centred():
    a, b = (list(eval_batches(Plain(), SMALL, 8)) for _ in range(2))
    for x, y in zip(a, b): same(x, y)
    clip = Plain().read(0, Request.of(SMALL.inputs))
    np.testing.assert_array_equal(a[0]['video'][0], clip.video[:, 4:20, 6:22])
    np.testing.assert_array_equal(crop(clip.video, SMALL.video), clip.video[:, 4:20, 6:22])

def test_closing():
    "By hand, by leaving, by forgetting; errors stop the iterator; no thread is left over"
    before = set(threading.enumerate())
    stream = Loader(Plain(), SMALL).batches()
    next(stream); stream.close(wait=10)
    assert not stream.thread.is_alive()
    with pytest.raises(StopIteration): next(stream)
    thread = Loader(Plain(), SMALL).batches().thread
    thread.join(10)
    assert not thread.is_alive()
    def items():
        yield {'notes': np.frombuffer(b'[]', np.uint8)}
        raise LoaderError('x.mp4: broken')
    stream = Batches(items, Report())
    next(stream)
    with pytest.raises(LoaderError, match='x.mp4'): next(stream)
    stream.thread.join(10)
    assert not set(threading.enumerate()) - before

def test_an_open_iterator_does_not_harm_the_exit(run_python):
    "Interrupted or forgotten: the interpreter ends cleanly"
    code = """
from avmae_nb.config import preset
from avmae_nb.data.loader import Loader
from avmae_nb.data.sources import open_source
config = preset('tiny')
forgotten, closed = (Loader(open_source(config.data), config).batches() for _ in range(2))
next(forgotten), next(closed)
closed.close()
print('end')
"""
    assert run_python(code).strip() == 'end'

class Skewed(Plain):
    "One clip of class 0, fifty of class 1"
    def __init__(self): super().__init__(51)
    def label(self, i): return min(i, 1)

def test_balanced_sampling_draws_classes_not_clips():
    drawn = lambda on: np.concatenate([loader.batch_at(s)['index'] for loader in [Loader(Skewed(), SMALL.replace(**{'data.balanced': on}))] for s in range(40)])
    even, plain = drawn(True), drawn(False)
    assert 55 < (even == 0).sum() < 105 and len(set(even[even > 0])) > 35   # 80 of 160 in the mean; half of the draws are spread over the fifty
    assert (plain == 0).sum() <= 4
