#!/usr/bin/env python3
"""The project's chores, each doing its own set-up in .venv; needs Python 3.11 or newer and git, nothing else.

  python3 tools/task.py demo        pre-train a tiny model for some minutes and say what it learned
  python3 tools/task.py test        all checks: notebooks clean and exported, README, nbdev_test, pytest in two processes (further words go to a single pytest instead)
  python3 tools/task.py lab         open the notebooks in JupyterLab
  python3 tools/task.py notebooks   after editing: clean, export, README
  python3 tools/task.py docs        HTML pages of all notebooks in _docs
  python3 tools/task.py readme      README.md from index.ipynb
  python3 tools/task.py clean       remove caches and built files (runs/ and .venv stay)

  test --apart    in an environment of its own named after this Python, e.g. .venv-3.13
  test --floor    with the oldest supported versions, tools/floor.txt (with --apart: .venv-3.13-floor)
"""
import sys
if sys.version_info < (3, 11):
    sys.exit('avmae_nb needs Python 3.11 or newer, and %s is %d.%d. Name another one: make demo PYTHON=python3.12, or python3.12 tools/task.py demo'
             % ((sys.executable or 'this',) + sys.version_info[:2]))
import hashlib, os, shutil, subprocess, time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = 'Scripts' if os.name == 'nt' else 'bin'
INSTALLS = {'': [''], 'notebook': ['', 'notebook'], 'dev': ['', 'notebook', 'dev']}   # an extra and the ones it contains

def fingerprint(floor):
    "Changes with whatever asks for a new installation"
    files = ['settings.ini', 'setup.py'] + ['tools/floor.txt'] * floor
    return hashlib.sha256(b''.join((ROOT / f).read_bytes() for f in files) + f'{ROOT} {sys.version}'.encode()).hexdigest()

def make_venv(venv):
    "A virtual environment of this Python, or a line that says what is missing"
    print(f'making {venv.name} with Python {sys.version.split()[0]}', flush=True)
    done = subprocess.run([sys.executable, '-m', 'venv', '--clear', venv], capture_output=True, text=True)
    if done.returncode: sys.exit(f'{done.stdout}{done.stderr}\npython -m venv failed; on Debian and Ubuntu: apt-get install python3-venv')

def install(extra='', venv=ROOT / '.venv', floor=False):
    "The package and an extra, editable; returns at once when nothing has changed since the last time"
    stamp, mark = venv / f'.installed-{extra or "base"}', fingerprint(floor)
    if stamp.exists() and stamp.read_text() == mark: return venv / BIN
    if not (venv / BIN).exists(): make_venv(venv)
    started = time.time()
    print('installing, about a minute ...', flush=True)
    limits = ['-c', ROOT / 'tools/floor.txt'] if floor else []
    done = subprocess.run([venv / BIN / 'python', '-m', 'pip', 'install', '-q', '--disable-pip-version-check', *limits, '-e', f'{ROOT}[{extra}]' if extra else ROOT])
    if done.returncode: sys.exit('the installation failed; pip says why above (a network is needed the first time)')
    for name in INSTALLS[extra]: (venv / f'.installed-{name or "base"}').write_text(mark)
    print(f'installed in {time.time() - started:.0f} s', flush=True)
    return venv / BIN

def environment(bin, threads=None):
    "Caches inside the checkout, the CPU unless another platform is named, and `threads` threads for XLA and BLAS"
    cache = ROOT / '.cache'
    defaults = {'JAX_COMPILATION_CACHE_DIR': cache / 'jax', 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': 0, 'NUMBA_CACHE_DIR': cache / 'numba',
                'JAX_PLATFORMS': 'cpu', 'OMP_NUM_THREADS': 1, 'OPENBLAS_NUM_THREADS': 1, 'JUPYTER_PLATFORM_DIRS': 1, 'PYTHONUTF8': 1}
    if threads: defaults['NPROC'] = threads   # XLA sizes its CPU thread pool by it
    return {**{k: str(v) for k, v in defaults.items()}, **os.environ, 'PATH': f'{bin}{os.pathsep}{os.environ["PATH"]}', 'VIRTUAL_ENV': str(bin.parent)}

QUICK = ['--xla_backend_optimization_level=0', '--xla_cpu_use_fusion_emitters=false',   # less work for LLVM
         '--xla_cpu_parallel_codegen_split_count=1', '--xla_cpu_enable_concurrency_optimized_scheduler=false']   # a sixth less CPU for the tests of models, in two processes of a thread each

def quick_compiles(bin):
    "XLA_FLAGS for programs that compile longer than they run, as those of tests do: a toy's training then costs a third of the CPU. XLA ends a process that names a flag it does not know: such a flag is left out"
    knows = lambda flag: not subprocess.run([bin / 'python', '-c', 'import jax; jax.devices()'], env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flag}, capture_output=True).returncode
    return {'XLA_FLAGS': ' '.join([os.environ.get('XLA_FLAGS', ''), *filter(knows, QUICK)]).strip()}

def step(title, command, env):
    "Run one part of the tests; stop at the first that fails"
    print(f'\n== {title}', flush=True)
    started = time.time()
    done = subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL)
    if done.returncode: sys.exit(f'\n{title}: failed')
    print(f'{title}: ok, {time.time() - started:.0f} s', flush=True)

def rooms():
    "nbdev_test's options by room: a room at a time, since its worker processes keep all that their notebooks compiled, 6 GB each for all rooms"
    folders = sorted(p for p in (ROOT / 'nbs').iterdir() if p.is_dir() and p.name[0] not in '._' and any(p.glob('*.ipynb')))
    return {'start and terminal': ['--path', 'nbs', '--skip_folder_re', '.'], **{f.name: ['--path', f'nbs/{f.name}'] for f in folders}}

def test(args):
    "The same as the continuous integration; the last line printed is pytest's"
    floor, apart = '--floor' in args, '--apart' in args
    rest = [a for a in args if a not in ('--floor', '--apart')]
    name = '.venv' + f'-{sys.version_info[0]}.{sys.version_info[1]}' * apart + '-floor' * floor
    bin = install('dev', ROOT / name, floor)
    quick = quick_compiles(bin)
    env = lambda threads: {**environment(bin, threads), **quick}
    if not rest:
        step('notebooks clean, package and README in step with them', [bin / 'python', 'tools/drift.py'], environment(bin))
        for room, path in rooms().items(): step(f'notebooks run: {room}', [bin / 'nbdev_test', '--n_workers', '2', '--timing', *path], env(1))
    print('\n== pytest', flush=True)
    words, threads = (rest, None) if rest else (['-n', '2', '--dist', 'loadfile', '--no-loadscope-reorder', '--durations', '25', 'tests'], 1)   # two processes with a thread each, a file's tests in one of them
    sys.exit(subprocess.run([bin / 'python', '-m', 'pytest', '-q', *words], cwd=ROOT, env=env(threads), stdin=subprocess.DEVNULL).returncode)

def demo(args):
    "The main job, from nothing"
    bin = install()
    sys.exit(subprocess.run([bin / 'avmae', 'demo', *args], cwd=ROOT).returncode)

def lab(args):
    "JupyterLab on the front page"
    bin = install('notebook')
    sys.exit(subprocess.run([bin / 'jupyter', 'lab', *(args or ['index.ipynb'])], cwd=ROOT, env={**os.environ, 'PATH': f'{bin}{os.pathsep}{os.environ["PATH"]}'}).returncode)

def notebooks(args):
    "What to run after editing notebooks and before a commit"
    bin = install('dev')
    env = environment(bin)
    for command in ('nbdev_clean', 'nbdev_export'): subprocess.run([bin / command], cwd=ROOT, env=env, check=True)
    docs([], 'readme')

def docs(args, kind='site'):
    "README.md or the HTML pages, without quarto"
    bin = install('dev')
    sys.exit(subprocess.run([bin / 'python', 'tools/pages.py', kind, *args], cwd=ROOT, env=environment(bin)).returncode)

def readme(args): docs(args, 'readme')

def clean(args):
    "Caches and built files"
    for name in ('.cache', '_docs', '_proc', 'build', 'dist', '.pytest_cache', '.hypothesis'): shutil.rmtree(ROOT / name, ignore_errors=True)

TASKS = {f.__name__: f for f in (demo, test, lab, notebooks, docs, readme, clean)}

if __name__ == '__main__':
    if len(sys.argv) < 2 or sys.argv[1] not in TASKS: sys.exit(__doc__ if len(sys.argv) < 2 or sys.argv[1] in ('-h', '--help') else f'no task {sys.argv[1]!r}; there are: {", ".join(TASKS)}')
    try: TASKS[sys.argv[1]](sys.argv[2:])
    except KeyboardInterrupt: sys.exit(130)
