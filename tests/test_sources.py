"Folders, labels, splits and windows: what a user has on disk becomes the same clips everywhere, and what cannot work is said before training"
import os, pickle, shutil, subprocess, sys
from pathlib import Path

import numpy as np, pytest
from avmae_nb.config import ConfigError, Data, preset
from avmae_nb.data import sources
from avmae_nb.data.media import Clip, MediaError, Request
from avmae_nb.data.sources import Files, Item, Source, clips_folder, draw_start, hold_out, list_folder, open_source, view_start
from avmae_nb.data.tables import read_labels
from avmae_nb.data.write import write_clip

SMALL = Request(4, 0.1, 32, 0.5)
pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')

def grey(n, level=100): return np.full((n, 32, 48, 3), level, np.uint8)

@pytest.fixture(scope='module')
def clip_file(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp('clip') / 'a.mp4', grey(25), 0.1 * np.random.default_rng(0).normal(size=16000))

@pytest.fixture
def videos(tmp_path, clip_file):
    "12 clips in two classes, below a folder with other things in it"
    for k in range(12):
        path = tmp_path / 'videos' / ('bells' if k % 3 else 'dogs') / 'deep' / f'{k:02}.mp4'
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip_file, path)
    (tmp_path / 'videos/readme.txt').write_text('hello')
    (tmp_path / 'videos/.DS_Store').touch()
    (tmp_path / 'videos/bells/._01.mp4').touch()
    return tmp_path / 'videos'

def folder(path, split='all', **how): return open_source(Data(source='folder', path=str(path), **how), split)

# ---- folders

def test_a_folder_is_listed_recursively(videos):
    files, notes = list_folder(videos)
    assert len(files) == 12 and files == sorted(files) and files[0] == 'bells/deep/01.mp4'
    assert notes == ('1 files with other extensions were skipped: 1 .txt',)

def test_clips_are_read(videos):
    source = folder(videos)
    assert len(source) == 12 and source.classes is None and source.label(0) is None
    clip = source.read(3, SMALL, np.random.default_rng(0))
    assert isinstance(clip, Clip) and clip.name == source.name(3) and clip.video.shape == (4, 32, 48, 3) and clip.audio.shape == (8000,)
    again = pickle.loads(pickle.dumps(source)).read(3, SMALL, np.random.default_rng(0))
    assert again.start == clip.start > 0 and (again.audio == clip.audio).all() and again.start <= 0.7 + 1e-9

def test_known_extensions_in_any_case(tmp_path, clip_file):
    for name in ('A.MP4', 'b.Mp4', 'c.mov', 'd.wav', 'e.jpeg'): shutil.copy(clip_file, tmp_path / name)
    assert list_folder(tmp_path)[0] == ['A.MP4', 'b.Mp4', 'c.mov', 'd.wav']

def test_links_are_followed_once(videos, tmp_path):
    os.symlink(videos, videos / 'bells/loop')
    os.symlink(tmp_path / 'elsewhere', videos / 'gone')
    assert len(list_folder(videos)[0]) == 12

def test_nothing_to_read_is_said(tmp_path, videos):
    with pytest.raises(ConfigError, match="wants path="): open_source(Data(source='folder'))
    with pytest.raises(ConfigError, match='is not a folder; it does not exist'): folder(tmp_path / 'nowhere')
    with pytest.raises(ConfigError, match='give the folder that the file is in'): folder(videos / 'readme.txt')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ConfigError, match='no video or sound in it: it is empty'): folder(tmp_path / 'empty')
    (tmp_path / 'empty/a.docx').touch()
    with pytest.raises(ConfigError, match=r'found 1 \.docx.*Known extensions: .*\.mp4'): folder(tmp_path / 'empty')

def test_no_decodable_clip(tmp_path):
    (tmp_path / 'bad').mkdir()
    for k in range(3): (tmp_path / f'bad/{k}.mp4').write_text('not a video')
    with pytest.raises(ConfigError, match='none of 3 files that were tried .* can be decoded.*text file'): folder(tmp_path / 'bad')

def test_one_decodable_clip_is_enough(tmp_path, clip_file):
    for k in range(30): (tmp_path / f'{k}.mp4').write_text('not a video')
    shutil.copy(clip_file, tmp_path / 'good.mp4')
    source = folder(tmp_path)
    assert len(source) == 31   # bad files keep their place: the loader counts and replaces them
    with pytest.raises(MediaError, match='text file'): source.read(0, SMALL)

def test_unreadable_folder(videos, monkeypatch):
    real = os.scandir
    def closed(path, below):
        if below in str(path): raise PermissionError(13, 'Permission denied')
        return real(path)
    monkeypatch.setattr(os, 'scandir', lambda p: closed(p, 'dogs'))
    files, notes = list_folder(videos)
    assert len(files) == 8 and '1 folders cannot be read and were skipped: dogs (Permission denied)' in notes
    monkeypatch.setattr(os, 'scandir', lambda p: closed(p, 'videos'))
    with pytest.raises(ConfigError, match='cannot be read.*Permission denied.*chmod'): folder(videos)

@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may read everything')
def test_unreadable_folder_for_real(videos):
    videos.chmod(0)
    try:
        with pytest.raises(ConfigError, match='cannot be read'): folder(videos)
    finally: videos.chmod(0o755)

def test_a_large_folder_is_only_listed(tmp_path, monkeypatch):
    for c in range(20):
        (tmp_path / f'{c}').mkdir()
        for k in range(100): (tmp_path / f'{c}/{k}.mp4').touch()
    opened = []
    monkeypatch.setattr(sources, 'read_clip', lambda *a: opened.append(a) or Clip(None, None))
    monkeypatch.setattr(sources, 'probe', lambda p: type('Info', (), {'duration': 10.0})())
    monkeypatch.setattr(sources, 'guarded', lambda source, method, *a: getattr(source, method)(*a))   # in this process, where the opened files are counted
    assert len(folder(tmp_path)) == 2000 and len(opened) == 1

def test_odd_names(tmp_path, clip_file):
    names = ['é.mp4', '漢字 %d.mp4', 'a:b.mp4', "it's.mp4", 'x\ny.mp4']
    for name in names: shutil.copy(clip_file, tmp_path / name)
    source = folder(tmp_path)
    assert {source.read(i, SMALL).name for i in range(5)} == set(names) and len(source.digest()) == 16

# ---- splits

def test_one_in_ten_is_held_out(videos):
    names = [f'{k}.mp4' for k in range(5000)]
    train, held = hold_out(names, 'train')[0], hold_out(names, 'eval')[0]
    assert sorted(train + held) == list(range(5000)) and 430 < len(held) < 570
    more = hold_out(names + [f'new{k}.mp4' for k in range(1000)], 'eval')[0]
    assert [i for i in more if i < 5000] == held   # more files do not move the others
    assert hold_out([f'{k}.mp4' for k in range(10)], 'eval')[0]   # never empty

def test_splits_of_a_folder_do_not_meet(videos):
    train, held, everything = (folder(videos, s) for s in ('train', 'eval', 'all'))
    assert {i.file for i in train.items}.isdisjoint(i.file for i in held.items) and len(train) + len(held) == len(everything) == 12
    assert len({s.digest() for s in (train, held, everything)}) == 3

def test_splits_are_the_same_on_every_machine(videos, tmp_path):
    shutil.copytree(videos, tmp_path / 'moved')
    assert folder(videos, 'eval').digest() == folder(tmp_path / 'moved', 'eval').digest()
    code = 'import sys; from avmae_nb.data.sources import hold_out; print(hold_out([f"{k}.mp4" for k in range(100)], "eval")[0])'
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env={**os.environ, 'PYTHONHASHSEED': '7'}, cwd=Path(sources.__file__).parents[2])
    assert run.stdout.strip() == str(hold_out([f'{k}.mp4' for k in range(100)], 'eval')[0])

def test_few_clips_are_evaluated_on_all_and_it_is_said(tmp_path, clip_file):
    for k in range(4): shutil.copy(clip_file, tmp_path / f'{k}.mp4')
    with pytest.warns(UserWarning, match='only 4 clips: the eval split has the clips of the train split'): source = folder(tmp_path, 'eval')
    assert len(source) == len(folder(tmp_path, 'train')) == 4 and 'only 4 clips' in source.notes[-1]

def test_a_limit_takes_clips_from_everywhere(videos):
    source = folder(videos, clips=6, labels='folders')
    assert len(source) == 6 and {source.label(i) for i in range(6)} == {0, 1}
    assert source.digest() == folder(videos, clips=6, labels='folders').digest()

# ---- labels

def test_subfolders_as_classes(videos):
    source = folder(videos, labels='folders')
    assert source.classes == ['bells', 'dogs'] and [source.label(i) for i in range(12)] == [0] * 8 + [1] * 4
    with pytest.raises(ConfigError, match='no clip is in a subfolder'): folder(videos / 'dogs/deep', labels='folders')

def labels(videos, text, **how):
    (videos.parent / 'labels.csv').write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder(videos, how.pop('split', 'all'), labels=str(videos.parent / 'labels.csv'), **how)

def test_csv_of_labels(videos):
    source = labels(videos, '\ufeffPath, Class\nbells/deep/01.mp4,"bell, large"\ndogs/deep/00.mp4,dog\n02,bell\nnone.mp4,dog\n')
    assert source.classes == ['bell', 'bell, large', 'dog'] and [source.label(i) for i in range(3)] == [1, 2, 0]
    assert source.read(0, SMALL).label == 1
    assert any('1 of 4 clips' in n and 'none.mp4' in n for n in source.notes) and any(n.startswith('9 files in the folder are not in') for n in source.notes)

def test_csv_splits_and_segments(videos):
    text = 'file;split;start;end\ndogs/deep/00.mp4;train;0;0.5\ndogs/deep/00.mp4;test;0.5;\nbells/deep/01.mp4;train;;\n'
    train, held = labels(videos, text, split='train'), labels(videos, text, split='eval')
    assert [train.name(i) for i in range(2)] == ['dogs/deep/00.mp4@0-0.5', 'bells/deep/01.mp4'] and [held.name(0)] == ['dogs/deep/00.mp4@0.5']
    assert train.duration(0) == pytest.approx(0.5) and held.duration(0) == pytest.approx(0.5) and train.classes is None
    assert 'short' in train.read(0, Request(4, 0.2, 32, 0.0)).flags
    with pytest.raises(ConfigError, match="no clip of the split 'eval'"): labels(videos, 'file,split\ndogs/deep/00.mp4,train\n', split='eval')

@pytest.mark.parametrize('text, message', [
    ('name,kind\na.mp4,b\n', "no column with file names. The header is 'name', 'kind'; wanted: one of file, path"), ('', 'header is empty'), ('file,label\n', 'a header and no rows'),
    ('file,label\na.mp4,dog,barks\n', 'line 2: more cells than'), ('file,label,split\na.mp4\nb.mp4\n', 'none of its 2 files'), ('file,start\na.mp4,soon\n', "line 2: start='soon' is not a number"),
    ('file,label\nx.mp4,dog\ny.mp4,dog\n', r'none of its 2 files is in the folder; tried e.g. x.mp4, y.mp4; the folder has e.g. bells/deep/01.mp4'), (b'\xff\xfe\x00\x81', 'not a readable CSV')])
def test_wrong_label_files(videos, text, message):
    with pytest.raises(ConfigError, match=message): labels(videos, text)

def test_label_file_that_is_not_there(videos):
    with pytest.raises(ConfigError, match="no such file .or write labels='folders'"): folder(videos, labels=str(videos / 'none.csv'))
    assert read_labels.__doc__

# ---- windows

def test_training_windows_are_uniform_and_fit():
    request = Request.of(preset('vggsound').inputs)
    rng = np.random.default_rng(0)
    starts = np.array([draw_start(10.0, request, rng) for _ in range(4000)])
    room = 10.0 - 15 * 0.16   # METHOD section 14: [0, F - (n-1) * stride)
    assert starts.min() >= 0 and starts.max() < room
    assert np.abs(np.histogram(starts, 10, (0, room))[0] / 400 - 1).max() < 0.2
    assert draw_start(None, request, rng) == draw_start(2.0, request, rng) == 0.0

def test_evaluation_windows_are_fixed():
    request = Request(16, 0.16, 224, 8.0)
    assert view_start(10.0, request) == pytest.approx(1.0) and view_start(3.0, request) == 0.0
    views = [view_start(10.0, request, v, 4) for v in range(4)]
    assert np.allclose(views, np.linspace(0, 7.6, 4))
    assert [view_start(1.0, request, v, 4) for v in range(4)] == [0.0] * 4

def test_request_of_a_configuration():
    c = preset('vggsound')
    assert Request.of(c.inputs) == Request(16, 0.16, 256, 8.0, 16000)
    assert Request.of(c.replace(audio=None).inputs).seconds == 0 and Request.of(c.replace(video=None).inputs).frames == 0

# ---- registry and the shipped clips

def test_registry():
    with pytest.raises(ConfigError, match="did you mean 'folder'"): open_source(Data(source='foldr'))
    with pytest.raises(ConfigError, match="did you mean 'eval'"): open_source(Data(source='clips'), 'evals')

def test_own_sources():
    @sources.source('mine')
    def mine(data, split): return Mine()
    try: assert open_source(Data(source='mine')).read(0, SMALL).name == '0'
    finally: sources.SOURCES.pop('mine')

class Mine(Source):
    def __len__(self): return 1
    def load(self, i, start, request): return Clip(None, None, self.name(i))

def test_the_shipped_clips():
    source = open_source(Data(source='clips'))
    assert len(source) == 2 and (clips_folder() / 'README.md').exists()
    for i in range(2):
        clip = source.read(i, Request(16, 0.16, 64, 5.0))
        assert clip.video.shape[0] == 16 and clip.audio.shape == (80000,) and clip.flags == ()

def test_a_file_that_goes_away(videos):
    source = folder(videos)
    os.remove(source.path(0))
    with pytest.raises(MediaError, match='no such file'): source.read(0, SMALL)
    assert Files(videos, [Item('a.mp4')]).name(0) == 'a.mp4'
