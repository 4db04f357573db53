"Transcoding a collection, and keeping its tensors: killed and resumed, changed files, a decoder that dies; what `avmae stats`, `prepare` and `inspect` say"
import json, os, signal, subprocess, sys, time
import numpy as np, pytest
from toys import toy_config
from avmae_nb.cli import main
from avmae_nb.config import ConfigError
from avmae_nb.data import prepare as module
from avmae_nb.data.cache import Windows, cache
from avmae_nb.data.loader import Loader
from avmae_nb.data.media import Request, probe
from avmae_nb.data.prepare import prepare
from avmae_nb.data.sources import open_source
from avmae_nb.data.write import write_clip
from avmae_nb.train.pretrain import pretrain

def frames(n=10, size=32): return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8)

@pytest.fixture
def raw(tmp_path):
    for name in "ab": (tmp_path / "raw" / name).mkdir(parents=True)
    for k in range(6): write_clip(tmp_path / f'raw/{"ab"[k % 2]}/{k}.mp4', frames(), 0.1 * np.sin(np.arange(8000) / 5))
    return tmp_path / 'raw'

def test_killed_midway_it_goes_on(raw, tmp_path):
    code = f'from avmae_nb.data import prepare as m; import time; f = m.transcode; m.transcode = lambda *a: (time.sleep(0.3), f(*a))[1]; m.prepare({str(raw)!r}, {str(tmp_path / "new")!r})'
    log, child = tmp_path / 'new/prepared.jsonl', subprocess.Popen([sys.executable, '-c', code])
    while child.poll() is None and not (log.exists() and log.read_text().count('\n') >= 2): time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    with open(log, 'a') as f: f.write('{"name": "a/')   # a line that was cut off
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'new').rglob('*.mp4')}
    done = prepare(raw, tmp_path / 'new')
    assert (done.done, done.notes) == (6, []) and 2 <= done.skipped < 6
    assert sum(p.stat().st_mtime_ns == before.get(p) for p in (tmp_path / 'new').rglob('*.mp4')) == done.skipped
    assert not list((tmp_path / 'new').rglob('*.part')) and all(probe(p).duration > 0.3 for p in (tmp_path / 'new').rglob('*.mp4'))

def test_what_changed_is_made_again(raw, tmp_path):
    prepare(raw, tmp_path / 'new')
    write_clip(raw / 'a/0.mp4', frames(20))
    again = prepare(raw, tmp_path / 'new')
    assert again.skipped == 5 and [(n['name'], n['problem']) for n in again.notes] == [('a/0.mp4', 'no_sound')]
    smaller = prepare(raw, tmp_path / 'new', short_side=16)
    assert smaller.skipped == 0 and probe(tmp_path / 'new/b/1.mp4').size == (16, 16)

def dies(pair):
    "Stands for a decoder with a fault in it"
    if pair[0] == 'bad': os._exit(11)
    return pair[0], (), ''

def test_a_file_that_kills_its_process_is_the_only_one_lost():
    names = ['a', 'b', 'bad', *map(str, range(12))]
    outcomes = list(module._outcomes(dies, [(n, n) for n in names], 2))
    assert sorted(o[0] for o in outcomes) == sorted(names)
    assert [(o[0], o[1]) for o in outcomes if o[1]] == [('bad', ('broken',))] and 'died' in next(o[2] for o in outcomes if o[1])

def test_the_terminal(raw, tmp_path, capsys):
    (raw / 'a/bad.mp4').write_bytes(b'no film')
    (tmp_path / 'labels.csv').write_text('file,label\n' + ''.join(f'{"ab"[k % 2]}/{k}.mp4,{"cat" if k % 2 else "dog"}\n' for k in range(6)) + 'a/9.mp4,dog\n')
    assert not main(['prepare', str(raw), str(tmp_path / 'new'), '--workers', '2', '--labels', str(tmp_path / 'labels.csv')])
    out = capsys.readouterr().out
    assert '6 files in' in out and 'a/bad.mp4: broken' in out and 'a/9.mp4: missing' in out
    rows = [json.loads(line) for line in (tmp_path / 'new/prepared.jsonl').read_text().splitlines() if line]
    assert len(rows) == 7 and [r['name'] for r in rows if r['problems']] == ['a/bad.mp4']
    assert not main(['stats', str(tmp_path / 'new'), '--save', str(tmp_path / 'mine.yaml'), 'audio.seconds=0.32'])
    mean, std = (float(w.split('=')[1]) for w in capsys.readouterr().out.split()[:2])
    assert -9.3 < mean < 3 and 0.1 < std < 6 and f'mean: {round(mean, 4)}' in (tmp_path / 'mine.yaml').read_text()
    assert main(['inspect', str(raw), '--source', 'folder', '--clips', '0']) == 1
    out = capsys.readouterr().out
    assert '7 clips, all opened' in out and 'size: 32x32 (6)' in out and 'sample rate: 16000 Hz (6)' in out and 'unreadable: 1' in out
    assert main(['inspect', str(raw), '--labels', str(tmp_path / 'labels.csv'), '--clips', '2']) == 0
    out = capsys.readouterr().out
    assert '6 clips, 2 of them opened' in out and '2 classes, 3 to 3 clips each' in out

def cached(folder, **more): return toy_config(**{'data.source': 'cached', 'data.path': str(folder), 'data.clips': None, **more})

def test_tensors_from_the_terminal(raw, tmp_path, capsys):
    "Labels, a file that is none, held-out clips with their views; then a run on them"
    (raw / 'a/bad.mp4').write_bytes(b'no film')
    toy = toy_config()
    settings = [f'video.{k}={getattr(toy.video, k)}' for k in ('frames', 'stride', 'fps', 'size', 'short_side')] + [f'audio.seconds={toy.audio.seconds}']
    assert not main(['cache', str(raw), str(tmp_path / 'new'), '--labels', 'folders', '--windows', '2', '--views', '1', '2', '--workers', '2', '--preset', 'tiny', *settings])
    out = capsys.readouterr().out
    assert '1 could not be read: a/bad.mp4' in out and 'data.source=cached' in out and 'about' in out and 'GB' in out
    sources = {s: open_source(cached(tmp_path / 'new').data, s) for s in ('train', 'eval')}
    for s in sources.values(): assert len(s) == 6 and s.classes == ['a', 'b'] and 'a/bad.mp4' in s.notes[0]   # so few clips are held out and trained on, which is said
    pretrain(cached(tmp_path / 'new', **{'train.steps': 2, 'train.batch': 2, 'train.eval_clips': 0}), tmp_path / 'run').fit()
    with pytest.raises(ConfigError, match='frames 4 where 8'): Loader(sources['train'], cached(tmp_path / 'new', **{'video.frames': 8, 'train.batch': 2})).batch_at(0)

def test_tensors_killed_midway(tmp_path):
    "Whole files only, and the same call goes on"
    code = f"""import time
from avmae_nb.data import cache as m
from toys import toy_config
from avmae_nb.data.sources import open_source
from avmae_nb.data.media import Request
row = m._row
m._row = lambda *a: (time.sleep(0.01), row(*a))[1]
c = toy_config(**{{'data.clips': 200}})
m.cache(open_source(c.data), {str(tmp_path / 'train')!r}, m.Windows(Request.of(c.inputs), 1))"""
    child = subprocess.Popen([sys.executable, '-c', code], env={**os.environ, 'PYTHONPATH': 'tests'})
    while child.poll() is None and not (tmp_path / 'train/00001.jsonl').exists(): time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    with pytest.raises(ConfigError, match='not finished'): open_source(cached(tmp_path).data)
    c = toy_config(**{'data.clips': 200})
    done = cache(open_source(c.data), tmp_path / 'train', Windows(Request.of(c.inputs), 1))
    assert done.clips == 200 and done.skipped == 128 and not list((tmp_path / 'train').glob('.*'))

@pytest.mark.parametrize('damage', ['cut', 'flipped', 'gone'])
def test_damaged_tensors_cost_their_clips(tmp_path, damage):
    "Another clip takes the place of one whose record cannot be read, and the report names it"
    c = toy_config(**{'data.clips': 80})
    cache(open_source(c.data), tmp_path / 'train', Windows(Request.of(c.inputs), 1))
    file = tmp_path / 'train/00001.array_record'
    data = bytearray(file.read_bytes())
    if damage == 'flipped': data[100:-100:7] = bytes(len(data[100:-100:7]))
    file.write_bytes(data[:len(data) // 2] if damage == 'cut' else data) if damage != 'gone' else file.unlink()
    loader = Loader(open_source(cached(tmp_path).data), cached(tmp_path, **{'train.batch': 80}))
    batch = loader.batch_at(0)
    assert batch['example_mask'].all() and loader.report.kinds['unreadable'] >= 1 and '00001.array_record' in repr(loader.report)

@pytest.mark.parametrize('name, world', [('told-multi', 'easy'), ('told-heads', 'easy'), ('synthetic', 'events')])
def test_labels_of_every_kind_come_back(tmp_path, name, world):
    c = toy_config(**{'data.source': name, 'data.world': world, 'data.clips': 12})
    told = open_source(c.data)
    cache(told, tmp_path / 'train', Windows(Request.of(c.inputs), 2))
    kept = open_source(cached(tmp_path).data)
    assert kept.labels == told.labels
    for i in range(12):
        found = kept.read(i, Request.of(c.inputs), np.random.default_rng(i))
        np.testing.assert_array_equal(told.labels.array(found.label), told.labels.array(told.load(i, found.start, Request.of(c.inputs)).label))
