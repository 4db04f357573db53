"What SECURITY.md promises: nothing that is loaded is executed, paths stay inside, names are text and never HTML, secrets and the network are left alone"
import ast, dataclasses, html.parser, os, re, subprocess, sys
from pathlib import Path
import numpy as np, pytest
from avmae_nb.config import ConfigError, Data, Pretrain
from avmae_nb.data.sources import Source, open_source
from avmae_nb.data.synthetic import open_synthetic
from toys import toy_config

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / 'avmae_nb').rglob('*.py'), *(ROOT / 'bench').glob('*.py'), *(ROOT / 'tools').glob('*.py')])
EXECUTING_MODULES = {'pickle', 'cPickle', 'dill', 'cloudpickle', 'marshal', 'shelve', 'joblib', 'runpy', 'code'}
EXECUTING_CALLS = {'eval', 'exec', 'compile', '__import__'}

# Nothing that is loaded is executed

@pytest.mark.parametrize('path', SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_loaded_is_executed(path):
    for n in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        names = [a.name.split('.')[0] for a in n.names] if isinstance(n, ast.Import) else [(n.module or '').split('.')[0]] if isinstance(n, ast.ImportFrom) and not n.level else []
        assert not EXECUTING_MODULES & set(names), f'{path.name}:{n.lineno} imports {names}'
        if not isinstance(n, ast.Call): continue
        f = n.func
        if isinstance(f, ast.Name): assert f.id not in EXECUTING_CALLS, f'{path.name}:{n.lineno} calls {f.id}'
        if isinstance(f, ast.Attribute) and getattr(f.value, 'id', '') == 'yaml':
            safe = f.attr in ('safe_load', 'safe_dump', 'YAMLError') or f.attr == 'load' and ast.unparse(n.args[1]) == '_Loader'   # a SafeLoader
            assert safe, f'{path.name}:{n.lineno} calls yaml.{f.attr}'
        for k in n.keywords:
            assert not (k.arg in ('allow_pickle', 'shell') and ast.unparse(k.value) != 'False'), f'{path.name}:{n.lineno}: {k.arg}={ast.unparse(k.value)}'

def test_yaml_makes_no_objects_and_no_bombs(tmp_path):
    file = tmp_path / 'config.yaml'
    for text in ('!!python/object/apply:os.system ["touch owned"]', 'train: !!python/name:os.system', 'a: &a [1,1]\nb: &b [*a,*a]\nmodel: [*b,*b]', '[' * 5000, 'train: {seed: 2001-99-99}', '\0', 'train: {1: 2}', '3', 'train: {seed: .nan}'):
        file.write_text(text)
        with pytest.raises(ConfigError, match='config.yaml'): Pretrain.load(file)
    assert not Path('owned').exists()

def test_pickles_are_refused(tmp_path):
    import pickle
    from avmae_nb.interop.released import WeightsError, read_checkpoint
    from avmae_nb.interop.vit import load_vit
    class Evil:
        def __reduce__(self): return os.system, (f'touch {tmp_path}/owned',)
    (tmp_path / 'checkpoint').write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match='pickle'): read_checkpoint(tmp_path / 'checkpoint')
    np.savez(tmp_path / 'w.npz', a=np.array([Evil()], dtype=object))
    with pytest.raises(WeightsError, match='refused'): load_vit(tmp_path / 'w.npz')
    assert not (tmp_path / 'owned').exists()

# Paths

OUTSIDE = ['../secret.mp4', '/etc/passwd', 'a/../../secret.mp4', '..\\secret.mp4', 'C:\\secret.mp4', '\\\\host\\share.mp4', 'a/../../../secret']

@pytest.fixture
def folder(tmp_path):
    "A data folder with a clip, and a clip beside it that nobody may reach"
    from avmae_nb.data.sources import clips_folder
    (tmp_path / 'data/a').mkdir(parents=True)
    for to in ('data/good.mp4', 'secret.mp4'): (tmp_path / to).write_bytes((clips_folder() / 'bbb.mp4').read_bytes())
    return tmp_path

@pytest.mark.parametrize('name', OUTSIDE)
def test_label_files_cannot_leave_the_data_folder(folder, name):
    (folder / 'labels.csv').write_text(f'file,label\ngood.mp4,x\n"{name}",y\n')
    with pytest.raises(ConfigError, match='leads out of the data folder'): open_source(Data(source='folder', path=str(folder / 'data'), labels=str(folder / 'labels.csv')))

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('source, file, row', [('vggsound', 'vggsound.csv', '{},0,x,train\ngood,0,x,train\n'), ('ave', 'Annotations.txt', 'x&{}&good&0&3\nx&good&good&0&3\n'),
    ('audioset', 'balanced_train_segments.csv', '{}, 0.000, 3.000, "/m/1"\ngood, 0.000, 3.000, "/m/1"\n')])
def test_names_of_other_label_files_are_only_looked_up(folder, source, file, row):
    "They never become a path: a name finds a file that was listed below the data folder, or none"
    for name in OUTSIDE:
        (folder / file).write_text(row.format(name))
        try: found = open_source(Data(source=source, path=str(folder / 'data'), labels=str(folder / file)))
        except ConfigError: continue
        assert {os.path.realpath(found.path(i)) for i in range(len(found))} <= {os.path.realpath(folder / 'data/good.mp4')}

def test_a_playlist_reaches_no_other_file(folder):
    from avmae_nb.data.media import MediaError, Request, read_clip
    for name, text in {'list.m3u8': '#EXTM3U\n#EXTINF:5,\nfile:../secret.mp4\n', 'concat.mp4': 'ffconcat version 1.0\nfile ../secret.mp4\n', 'remote.m3u8': '#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1:9/x.ts\n'}.items():
        (folder / 'data' / name).write_text(text)
        with pytest.raises(MediaError): read_clip(folder / 'data' / name, Request(frames=1, seconds=0.1))

# HTML

HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(2)>"\'`{{7*7}}${1}&amp;\u202e$x$\\bad{'

class Tags(html.parser.HTMLParser):
    "Tags and handlers that a page really holds"
    def __init__(self, text):
        super().__init__()
        self.found, self.handlers = [], []
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        self.found.append(tag)
        self.handlers += [(k, v) for k, v in attrs if k.startswith('on') or (v or '').strip().lower().startswith('javascript:') or (k, v) == ('src', 'x')]

def inert(text: str, scripts: int = 0):
    "No tag or handler of the hostile name is one of the page"
    tags = Tags(text)
    assert tags.found.count('script') == scripts and not tags.handlers, (tags.found, tags.handlers)

def test_panels_tables_and_players_escape():
    from avmae_nb.view.panel import Panel, Panels, audio_player, flipbook, table, video_player
    picture, wave = np.zeros((8, 8, 3), np.uint8), np.zeros(1600, np.float32)
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    both = Panels(Panel(picture, alt=HOSTILE, title=HOSTILE, text=HOSTILE), table([(HOSTILE, 1)], [HOSTILE, 'n'], HOSTILE), Panel(text=HOSTILE), title=HOSTILE)
    inert(both.html)
    inert(audio_player(wave, 16000, HOSTILE) + video_player(frames, 5, HOSTILE) + flipbook(frames, np.arange(3.), HOSTILE))

@pytest.fixture(scope='module')
def predictions():
    from avmae_nb.train.predictions import Predictions
    rng = np.random.default_rng(0)
    return Predictions(rng.normal(size=(12, 3)).astype(np.float32), rng.integers(0, 3, 12), {HOSTILE: [HOSTILE, HOSTILE + '2', 'plain']}, index=np.arange(12), names=tuple(f'{HOSTILE}{i}.mp4' for i in range(12)), modalities=('video', 'audio'))

def test_pictures_of_predictions_escape(predictions):
    from avmae_nb.view.classes import plot_calibration, plot_class_ap, plot_confusion
    for plot in (plot_class_ap, plot_confusion, plot_calibration): inert(plot(predictions).html)

def test_board_and_live_panel_escape(tmp_path):
    from avmae_nb.view.board import Look, plot_svg
    from avmae_nb.view.live import Status, status_html
    rows = [{'step': i, 'loss': 1.0, f'loss/{HOSTILE}': 1.0, f'eval/{HOSTILE}': 0.5} for i in range(1, 5)]
    for key in rows[0]:
        if key != 'step': inert(plot_svg({HOSTILE: rows}, key, Look()))
    status = Status(10)
    for r in rows: status.add(r['step'], {**r, 'learning_rate': 0.1, 'skipped': 0}, float(r['step']))
    status.evals.append((4, {f'eval/{HOSTILE}': 0.5})); status.word = f'stopped by {HOSTILE}'
    inert(status_html(status))

def test_pages_and_the_viewer_escape():
    from avmae_nb.view.page import page_html
    inert(page_html(HOSTILE, {'clip': {'title': HOSTILE, 'label': HOSTILE}}), scripts=2)   # the page's own two
    scripts = [p.read_text(encoding='utf-8') for p in (ROOT / 'avmae_nb/view/static').glob('*.js')]
    assert not [w for s in scripts for w in ('innerHTML', 'outerHTML', 'insertAdjacentHTML', 'document.write', 'eval(', 'new Function') if w in s]

class Named(Source):
    "The synthetic world under hostile names"
    def __init__(self, data): self.base, self.classes = open_synthetic(data, 'train'), [f'{HOSTILE}{k}' for k in range(16)]
    def __len__(self): return len(self.base)
    def name(self, i): return f'{HOSTILE}{i}.mp4'
    def label(self, i): return self.base.label(i)
    def duration(self, i): return self.base.duration(i)
    def load(self, i, start, request): return dataclasses.replace(self.base.load(i, start, request), name=self.name(i))

@pytest.fixture(scope='module')
def named():
    from avmae_nb.data.loader import Loader
    config = toy_config(**{'train.batch': 4})
    source = Named(config.data)
    return source, config, Loader(source, config).batch_at(0)

def test_pictures_of_clips_escape(named, predictions):
    from avmae_nb.view.answers import show_confused, show_worst
    from avmae_nb.view.batch import show_batch, show_masks
    from avmae_nb.view.curves import plot_loss
    source, config, batch = named
    rows = [{'step': i, 'loss': 1.0 / i} for i in range(1, 9)]
    for panel in (show_batch(batch, config, source=source), show_masks(batch, config), show_worst(predictions, source, config, 2), show_confused(predictions, source, config, 2), plot_loss(rows, rows, names=[HOSTILE, 'b'])): inert(panel.html)

def test_the_viewer_and_its_page_hold_names_as_text(named, tmp_path):
    from avmae_nb.train.pretrain import build_model
    from avmae_nb.view.page import save_html
    from avmae_nb.view.viewer import view
    source, config, _ = named
    page = save_html(view(build_model(config), config, source=source), tmp_path / 'page.html', ratios=(0.5,)).read_text(encoding='utf-8')
    inert(page, scripts=2)
    assert 'alert(1)' in page   # it is there, as text

# Secrets

SECRETS = {'WANDB_API_KEY': 'sentinel-wandb-5c1e', 'HF_TOKEN': 'sentinel-hf-77aa', 'AWS_SECRET_ACCESS_KEY': 'sentinel-aws-09bd'}
RUN = '''
import sys; sys.path.insert(0, "tests")
from toys import toy_config
from avmae_nb.train.pretrain import pretrain
from avmae_nb.interop.handout import hand_out
run = sys.argv[1]
learner = pretrain(toy_config(**{"train.steps": 2, "train.log_to": ("tensorboard",), "train.eval_every": 2}), run).fit()
print(hand_out(run, run + "-out"), learner.callbacks, learner.config)
try: pretrain(toy_config(**{"train.steps": 3}), run)
except Exception as e: print(e)
'''

def test_secrets_reach_neither_the_log_nor_the_run_folder(tmp_path):
    done = subprocess.run([sys.executable, '-c', RUN, str(tmp_path / 'run')], cwd=ROOT, capture_output=True, env={**os.environ, **SECRETS})
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    files = {str(p): p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    assert len(files) > 10
    for value in SECRETS.values(): assert not [name for name, data in {**files, 'output': done.stdout + done.stderr}.items() if value.encode() in data]

# Network

OFFLINE = '''
import socket, sys
def refuse(self, address, *args):
    if isinstance(address, tuple) and str(address[0]) not in ("127.0.0.1", "::1", "localhost"): print("NETWORK", address, flush=True)
    raise OSError("no network in this test")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = lambda host, *a, **k: (print("NETWORK", host, flush=True), (_ for _ in ()).throw(OSError("no network")))[1]
sys.path.insert(0, "tests")
import avmae_nb.all, avmae_nb.cli, avmae_nb.interop.handout, avmae_nb.interop.start, avmae_nb.view.page
from avmae_nb.data.loader import Loader
from avmae_nb.data.sources import open_source
from avmae_nb.config import preset
from toys import toy_config
from avmae_nb.train.pretrain import pretrain
pretrain(toy_config(), fast=True).fit()
config = preset("tiny").replace(**{"data.source": "clips", "train.batch": 2})
Loader(open_source(config.data), config).batch_at(0)
print("done")
'''

def test_no_network_at_import_or_first_run():
    done = subprocess.run([sys.executable, '-c', OFFLINE], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ['done'], done.stderr[-2000:]
    assert 'NETWORK' not in done.stdout

# Dependencies

def test_floors_and_the_audit_are_as_said():
    import configparser, yaml
    settings = configparser.ConfigParser()
    settings.read(ROOT / 'settings.ini')
    asked = ' '.join(v for k, v in settings['DEFAULT'].items() if k.endswith('requirements')).split()
    table = re.findall(r'^\| `([\w-]+>=[\d.]+)` \|', (ROOT / 'SECURITY.md').read_text(), re.M)
    assert len(table) >= 5 and set(table) <= set(asked)
    workflow = yaml.safe_load((ROOT / '.github/workflows/test.yml').read_text())
    assert any(s.get('run', '').startswith('pip-audit') for s in workflow['jobs']['audit']['steps'])
    assert {'pull_request', 'schedule'} <= set(workflow[True])   # YAML reads the key `on` as true
