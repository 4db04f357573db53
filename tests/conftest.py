"Caches, thread bounds, and fixtures for what a machine may lack"
import os, shutil, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
CACHE = ROOT / '.cache'
for name, value in {'JAX_COMPILATION_CACHE_DIR': CACHE / 'jax', 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': 0, 'NUMBA_CACHE_DIR': CACHE / 'numba',
                    'JAX_PLATFORMS': 'cpu', 'OMP_NUM_THREADS': 1, 'OPENBLAS_NUM_THREADS': 1, 'MPLBACKEND': 'agg'}.items():
    os.environ.setdefault(name, str(value))

sys.path.insert(0, str(ROOT / 'bench'))
from timing import free_port, simulated
from hypothesis import settings
settings.register_profile('avmae', deadline=None, derandomize=True, max_examples=25)
settings.load_profile('avmae')

LONGEST = ('tutorials', 'model', 'oracle', 'faults', 'recipes', 'devices', 'viewer', 'finetune', 'probes', 'resume', 'train', 'plan')

def pytest_collection_modifyitems(items):
    "Files that take longest come first, so that two processes with a file each at a time end together (`--no-loadscope-reorder`)"
    place = {f'test_{name}': i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))

@pytest.fixture(scope='session', autouse=True)
def no_network():
    "Tests reach this machine only"
    import socket
    real = socket.socket.connect
    def connect(self, address):
        if isinstance(address, tuple) and address[0] not in ('127.0.0.1', '::1', 'localhost'): raise OSError(f'a test wants to reach {address}: tests use no network')
        return real(self, address)
    socket.socket.connect = connect
    yield
    socket.socket.connect = real

@pytest.fixture(scope='session')
def root() -> Path:
    "The checkout"
    return ROOT

@pytest.fixture(scope='session')
def shared() -> Path:
    "The folder `shared` beside the checkout (specification, recorded oracle); tests that want it are skipped elsewhere"
    folder = Path(os.environ.get('AVMAE_SHARED', ROOT.parent / 'shared'))
    if not folder.is_dir(): pytest.skip(f'no folder {folder}: set AVMAE_SHARED')
    return folder

@pytest.fixture(scope='session')
def oracle(shared) -> Path:
    "Recorded outputs of the released implementation"
    return shared / 'oracle'

@pytest.fixture(scope='session')
def chromium() -> str:
    "Path of a browser for the widget's tests"
    for name in ('chromium', 'chromium-browser', 'google-chrome'):
        if shutil.which(name): return shutil.which(name)
    pytest.skip('no Chromium on this machine')

@pytest.fixture(scope='session')
def run_python():
    "`run_python(code, devices=8)` runs code in a fresh interpreter, on as many simulated devices; returns what it prints"
    def run(code, devices=1, timeout=900, **env):
        done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=timeout,
                              env={**os.environ, **simulated(devices), **{k: str(v) for k, v in env.items()}})
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout
    return run
