"Transcoding a collection: killed and resumed, changed files, a decoder that dies; what `avmae stats`, `prepare` and `inspect` say"
import json, os, signal, subprocess, sys, time
import numpy as np, pytest
from avmae_nb.cli import main
from avmae_nb.data import prepare as module
from avmae_nb.data.media import probe
from avmae_nb.data.prepare import prepare
from avmae_nb.data.write import write_clip

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
