"A small file set in every distribution format, read end to end through batches; and what is wrong in label files is said with file and line"
import io
import h5py, numpy as np, pytest
from PIL import Image
from avmae_nb.config import ConfigError, Data, preset
from avmae_nb.data.epic import EPIC
from avmae_nb.data.listed import Index, Listed, usable
from avmae_nb.data.loader import Loader, LoaderError, eval_batches, logmel_statistics
from avmae_nb.data.media import MediaError, Request
from avmae_nb.data.sources import open_source
from avmae_nb.data.tables import read_table
from avmae_nb.data.tfrecord import to_sequence_example, write_records
from avmae_nb.data.write import write_clip

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')
SMALL = preset('tiny').replace(**{'video.frames': 2, 'video.size': 16, 'video.short_side': 16, 'video.tubelet': (2, 8, 8), 'audio.seconds': 0.16, 'train.batch': 2})

def tiny(path, seconds=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path.name)))
    return write_clip(path, rng.integers(0, 256, (5 * seconds, 16, 16, 3), np.uint8), 0.1 * rng.normal(size=8000 * seconds), fps=5.0, rate=8000)

def vggsound(root):
    for name in ('--0PQM4-hqg_000030', 'abcdefghijk_000000', 'lmnopqrstuv_000005'): tiny(root / f'video/{name}.mp4')
    (root / 'vggsound.csv').write_text('--0PQM4-hqg,30,waterfall,train\nabcdefghijk,0,"dog, barking",train\nlmnopqrstuv,5,"dog, barking",test\n')

def audioset(root):
    for name in ('-0RWZT-miFs', 'Y-0Gj8-vB1q4', '-0SdAVK79lg_30000_40000'): tiny(root / f'clips/{name}.mp4')
    head = '# Segments csv\n# num_ytids=3\n# YTID, start_seconds, end_seconds, positive_labels\n'
    (root / 'balanced_train_segments.csv').write_text(head + '-0RWZT-miFs, 420.000, 430.000, "/m/03v3yw,/m/0k4j"\n-0Gj8-vB1q4, 30.000, 40.000, "/m/0k4j"\n')
    (root / 'eval_segments.csv').write_text(head + '-0SdAVK79lg, 30.000, 40.000, "/m/0dgw9r"\n')
    (root / 'class_labels_indices.csv').write_text('index,mid,display_name\n0,/m/0dgw9r,"Human, sounds"\n1,/m/03v3yw,Keys\n2,/m/0k4j,Car\n')

def kitchen_row(video, start, stop, verb, noun): return f'{video}_0,P01,{video},00:00:00.50,{start},{stop},1,60,"open, slowly",open,{verb},door,{noun},"[\'door\']","[{noun}]"\n'

def epic(root):
    for name in ('P01_01', 'P02_101'): tiny(root / f'P01/{name}.MP4', 4)
    (root / 'EPIC_100_train.csv').write_text(','.join(EPIC) + '\n' + kitchen_row('P01_01', '00:00:01.00', '00:00:03.50', 3, 7) + kitchen_row('P01_01', '00:00:00.00', '00:00:01.00', 0, 1))
    (root / 'EPIC_100_validation.csv').write_text(kitchen_row('P02_101', '00:00:00.00', '00:00:02.00', 96, 299))   # no header here
    with h5py.File(root / 'EPIC_audio.hdf5', 'w') as f:
        for k, name in enumerate(('P01_01', 'P02_101')): f[name] = 0.3 * np.sin(np.arange(4 * 24000) * 0.1 * (k + 1)).astype(np.float32)

def ave(root):
    for name in ('-0hRJdhwOhc', '-2ZAh0jTF8o', '-4iOcSX-d0M'): tiny(root / f'AVE/{name}.mp4', 10)
    train, test = 'Church bell&-0hRJdhwOhc&good&2&6\nMale speech, man&-2ZAh0jTF8o&good&0&10\n', 'Church bell&-4iOcSX-d0M&good&5&9\n'
    (root / 'Annotations.txt').write_text('Category&VideoID&Quality&StartTime&EndTime\n' + train + test)
    (root / 'trainSet.txt').write_text(train)
    (root / 'testSet.txt').write_text(test)

def jpeg(level):
    out = io.BytesIO()
    Image.new('RGB', (24, 16), (level,) * 3).save(out, 'jpeg')
    return [out.getvalue()]

def dmvr(root):
    root.mkdir(exist_ok=True)
    record = lambda k, text: to_sequence_example({'clip/label/index': np.array([k]), 'clip/label/text': [text]}, {'image/encoded': [jpeg(10 * j) for j in range(5)], 'melspec/feature/floats': [np.full(12800, k, np.float32)]})
    write_records(root / 'train-00000-of-00001', [record(0, b'bell'), record(1, b'owl')])
    write_records(root / 'test-00000-of-00001', [record(1, b'owl')])

def folder(root):
    for k in range(3): tiny(root / f'{k}.mp4')
    (root / 'labels.csv').write_text('file,labels,split\n0.mp4,bird|water,train\n1.mp4,bell,train\n2.mp4,bell|water,test\n')

FORMATS = {'vggsound': (vggsound, (), {0, 1}), 'audioset': (audioset, (3,), None), 'epic': (epic, (2,), None), 'ave': (ave, (10,), None), 'dmvr': (dmvr, (), {0, 1}), 'folder': (folder, (3,), None)}

@pytest.mark.parametrize('name', FORMATS)
def test_every_format_becomes_batches(name, tmp_path):
    make, shape, values = FORMATS[name]
    make(tmp_path)
    data = Data(source=name, path=str(tmp_path), labels=str(tmp_path / 'labels.csv') if name == 'folder' else None)
    source, config = open_source(data), SMALL.replace(data=data, **{'audio.seconds': 2.0 if name == 'ave' else 0.16})   # labels by second want whole seconds
    assert len(source) == 2 and len(open_source(data, 'eval')) == 1
    b = Loader(source, config).batch_at(0)
    assert b['video'].shape == (2, 2, 16, 16, 3) and b['audio'].shape == (2, config.audio.frames, 128) and b['label'].shape == (2, *shape) and b['video'].std() + b['audio'].std() > 0
    if values: assert set(b['label'].tolist()) == values
    with eval_batches(open_source(data, 'eval'), config) as batches: last = list(batches)
    assert len(last) == 1 and last[0]['example_mask'].tolist() == [1, 0] and (last[0]['label'][1] == -1).all() and not (last[0]['label'][0] == -1).all()
    balanced = Loader(source, config.replace(**{'data.balanced': True}))
    assert (balanced.batch_at(3)['index'] == balanced.batch_at(3)['index']).all()

@pytest.mark.parametrize('name', ['vggsound', 'audioset', 'epic', 'ave'])
def test_pre_training_needs_no_labels(name, tmp_path):
    FORMATS[name][0](tmp_path / 'a')
    for f in (*(tmp_path / 'a').glob('*.csv'), *(tmp_path / 'a').glob('*.txt')): f.unlink()
    source = open_source(Data(source=name, path=str(tmp_path / 'a')))
    assert source.labels is None and len(source) >= 2 and any('clips have no labels' in n for n in source.notes)

def test_a_stored_spectrogram_is_normalised_and_must_fit(tmp_path):
    dmvr(tmp_path)
    source, config = open_source(Data(source='dmvr', path=str(tmp_path))), SMALL.replace(**{'audio.logmel.mean': 1.0, 'audio.logmel.std': 2.0})
    b = Loader(source, config).batch_at(0)
    np.testing.assert_allclose(b['audio'][:, 0, 0], (b['label'] - 1) / 2)
    assert logmel_statistics(source, SMALL) == pytest.approx((0.5, 0.5))
    with pytest.raises(LoaderError, match='stored spectrogram is 16x128'): Loader(source, SMALL.replace(**{'audio.logmel.bins': 64})).batch_at(0)

def test_a_damaged_record_names_file_and_byte(tmp_path):
    dmvr(tmp_path)
    path = tmp_path / 'train-00000-of-00001'
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r'train-00000-of-00001: the record at byte \d+ is damaged'): open_source(Data(source='dmvr', path=str(tmp_path))).record(1)

def test_a_shard_that_was_cut_costs_its_last_record(tmp_path):
    dmvr(tmp_path)
    path = tmp_path / 'train-00000-of-00001'
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=r'1 files of records end early: .*train-00000-of-00001: the record at byte \d+ is cut off'): source = open_source(Data(source='dmvr', path=str(tmp_path)), 'all')
    assert [source.label(i) for i in range(len(source))] == [1, 0] and source.load(1, 0.0, Request(2, 0.1, 16, 0.5)).melspec.shape == (50, 128)

# ---- what is wrong in label files

def opened(root, name, path, text, split='train', **more):
    (root / path).write_text(text)
    return open_source(Data(source=name, path=str(root), labels=str(root / path), **more), split)

@pytest.mark.parametrize('name, path, text, message', [
    ('vggsound', 'v.csv', 'abcdefghijk;0;dog;train\n', r"v.csv, line 1: cells are separated by ';'"),
    ('vggsound', 'v.csv', 'abcdefghijk,0,dog,train\nabcdefghijk,0,cat,train\n', r'v.csv, line 2: abcdefghijk_000000 has another label than in .*v.csv, line 1'),
    ('vggsound', 'v.csv', 'abcdefghijk,soon,dog,train\n', "line 1: start_seconds='soon' is not a number"), ('vggsound', 'v.csv', 'zzzzzzzzzzz,0,dog,train\n', 'tried e.g. zzzzzzzzzzz_000000, zzzzzzzzzzz_0'),
    ('audioset', 'a.csv', '-0RWZT-miFs, 420.000, 430.000, "/m/xxx"\n', "a.csv, line 1: label '/m/xxx' is not in the class list of 3"), ('audioset', 'a.csv', '-0RWZT-miFs, 430.0, 420.0, "/m/0k4j"\n', 'line 1: ends at 420 s, before its start'),
    ('epic', 'e.csv', kitchen_row('P01_01', '00:00:01.00', '00:00:03.50', 3, 300), 'e.csv, line 1: noun_class=300, but there are 300 classes'), ('epic', 'e.csv', kitchen_row('P01_01', '1.0', '3.5', 3, 3), 'is not a time like'),
    ('ave', 't.txt', 'Church bell&-0hRJdhwOhc&good&2&16\n', r't.txt, line 1: ends at 16 s'), ('ave', 't.txt', 'Church bell,-0hRJdhwOhc,good,2,6\n', r"separated by ','; wanted: '&'")])
def test_wrong_rows(name, path, text, message, tmp_path):
    FORMATS[name][0](tmp_path)
    for lists in tmp_path.glob('*Set.txt'): lists.unlink()
    with pytest.raises(ConfigError, match=message): opened(tmp_path, name, path, text)

@pytest.mark.parametrize('file', ['../x.mp4', '/etc/x.mp4', 'a/../../x.mp4', 'C:\\x.mp4'])
def test_names_stay_in_the_folder(file, tmp_path):
    folder(tmp_path)
    with pytest.raises(ConfigError, match='own.csv, line 3: .* leads out of the data folder'): opened(tmp_path, 'folder', 'own.csv', f'file,label\n0.mp4,a\n{file},a\n')

def test_what_is_left_out_is_said(tmp_path):
    folder(tmp_path)
    text = 'file,label,split,start,end\n0.mp4,a,train,,\n0.mp4,a,test,0,0.5\n1.mp4,b,train,,\n1.mp4,b,train,,\n2.mp4,a,train,0.5,0.5\n2.mp4,c,test,,\nlost.mp4,d,train,,\n'
    source = opened(tmp_path, 'folder', 'own.csv', text)
    notes = '\n'.join(source.notes)
    assert 'leakage: 1 recordings' in notes and '0.mp4' in notes and '1 rows last no time and were left out' in notes and 'own.csv, line 6' in notes
    assert '1 rows repeat an earlier one' in notes and 'own.csv, line 5' in notes and '2 of 4 classes (class) have no clip in the train split: c, d' in notes and source.missing == ('lost.mp4',) and source.classes == ['a', 'b', 'c', 'd']

def test_times_outside_the_file_name_the_line(tmp_path):
    folder(tmp_path)
    source = opened(tmp_path, 'folder', 'own.csv', 'file,label,start,end\n0.mp4,a,,\n1.mp4,b,5,6\n', 'all')
    with pytest.raises(MediaError, match=r'from 5.00 s was asked for, but the file holds 1.0\d s \(.*own.csv, line 3\)'): source.load(1, 0.0, Request(2, 0.1, 16, 0.1))

def test_large_label_files(tmp_path):
    "200,000 rows; names are compared and no file is opened, so that it takes seconds"
    (tmp_path / 'v.csv').write_text(''.join(f'{k:011},0,class {k % 309},train\n' for k in range(200_000)))
    rows = read_table(tmp_path / 'v.csv', ('youtube_id', 'start_seconds', 'label', 'split'))
    tiny(tmp_path / f'{7:011}_000000.mp4')
    listed, notes = usable([Listed((f'{r["youtube_id"]}_000000',), 0, r['split'], path='v.csv', line=r['line']) for r in rows])
    index = Index(tmp_path)
    assert len(listed) == 200_000 and not notes and sum(index.find(r.names) is not None for r in listed) == 1
    assert len(open_source(Data(source='vggsound', path=str(tmp_path), labels=str(tmp_path / 'v.csv')))) == 1
