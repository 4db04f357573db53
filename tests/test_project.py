"The package as a user gets it: contents, extras, floors between rooms, set-up that needs nothing else"
import ast, configparser, os, re, subprocess, sys, zipfile
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
CFG = configparser.ConfigParser(delimiters=['='])
CFG.read(ROOT / 'settings.ini')
CFG = CFG['DEFAULT']
FLOORS = {'config': 0, 'files': 0, 'tasks': 0, 'data': 0, 'devices': 0, 'hardware': 0, 'model': 1, 'train': 2, 'view': 3, 'plan': 3, 'interop': 3, 'recipes': 4, 'cli': 4, 'cli_plan': 4}

def names(requirements): return {re.split(r'[<>=\[!~]', r)[0].lower().replace('_', '-') for r in requirements.split()}
def room(path): return path.relative_to(ROOT / 'avmae_nb').with_suffix('').parts[0]

def test_base_install_is_lean():
    base = names(CFG['requirements'])
    assert not base & {'jupyterlab', 'ipywidgets', 'anywidget', 'notebook', 'torch', 'tensorflow', 'nbdev', 'wandb', 'pytest'}

def test_no_torch_or_tensorflow_in_any_extra():
    everything = set().union(*(names(CFG[k]) for k in CFG if k.endswith('requirements')))
    assert not [n for n in everything if n.startswith(('torch', 'tensorflow', 'tf-', 'clu'))]

def test_what_is_imported_is_required():
    "Every third-party package that the exported code imports is named in settings.ini"
    asked = set().union(*(names(CFG[k]) for k in CFG if k.endswith('requirements')))
    module_of = {'pyyaml': 'yaml', 'pillow': 'PIL', 'absl-py': 'absl', 'orbax-checkpoint': 'orbax', 'tensorboardx': 'tensorboardX', 'scikit-learn': 'sklearn', 'soundfile': 'soundfile', 'fastcore': 'fastcore'}
    known = {module_of.get(n, n).replace('-', '_') for n in asked} | {'avmae_nb', 'IPython', 'jaxlib', 'scipy'}   # IPython comes with a kernel, the other two with jax
    found = {}
    for path in (ROOT / 'avmae_nb').rglob('*.py'):
        for n in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            mods = [a.name for a in n.names] if isinstance(n, ast.Import) else [n.module] if isinstance(n, ast.ImportFrom) and not n.level else []
            found.update({m.split('.')[0]: path.name for m in mods})
    assert not {m: p for m, p in found.items() if m not in known and m not in sys.stdlib_module_names}

@pytest.mark.parametrize('path', sorted(p for p in (ROOT / 'avmae_nb').rglob('*.py') if room(p) in FLOORS), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downwards(path):
    here, inside = FLOORS[room(path)], ('avmae_nb', *path.relative_to(ROOT / 'avmae_nb').parts[:-1])
    for n in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if not isinstance(n, (ast.Import, ast.ImportFrom)): continue
        above = inside[:len(inside) - n.level + 1] if getattr(n, 'level', 0) else ()
        mods = [a.name for a in n.names] if isinstance(n, ast.Import) else ['.'.join([*above, n.module])] if n.module else ['.'.join([*above, a.name]) for a in n.names]
        for m in mods:
            parts = m.split('.')
            if parts[0] == 'avmae_nb' and len(parts) > 1: assert FLOORS.get(parts[1], 0) <= here, f'{path.name} (floor {here}) imports {m}'

def test_front_page_is_a_relative_link():
    link = ROOT / 'nbs' / 'index.ipynb'
    assert link.is_symlink() and os.readlink(link) == '../index.ipynb'

def test_clips_carry_attribution():
    text = (ROOT / 'avmae_nb/clips/README.md').read_text()
    for clip in (ROOT / 'avmae_nb/clips').glob('*.mp4'): assert clip.name in text
    assert 'CC BY 3.0' in text and 'Expat' in text

def test_wheel_holds_package_data(tmp_path):
    copy = tmp_path / 'src'
    files = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', 'avmae_nb', 'settings.ini', 'setup.py', 'MANIFEST.in', 'LICENSE', 'README.md'],
                           cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for f in filter(lambda f: (ROOT / f).is_file(), files):
        (copy / f).parent.mkdir(parents=True, exist_ok=True)
        (copy / f).write_bytes((ROOT / f).read_bytes())
    code = f'from setuptools import build_meta; print(build_meta.build_wheel({str(tmp_path)!r}))'
    subprocess.run([sys.executable, '-c', code], cwd=copy, capture_output=True, check=True)
    wheel = zipfile.ZipFile(next(tmp_path.glob('*.whl')))
    inside = set(wheel.namelist())
    expected = {f for f in files if f.startswith('avmae_nb/') and (ROOT / f).is_file()}
    assert expected <= inside, sorted(expected - inside)
    assert not [f for f in inside if f.startswith(('nbs/', 'tests/', 'tools/'))]
    entry = next(f for f in inside if f.endswith('entry_points.txt'))
    assert 'avmae = avmae_nb.cli:main' in wheel.read(entry).decode().replace('avmae=', 'avmae = ')

def test_no_pkg_resources(): assert 'import pkg_resources' not in (ROOT / 'setup.py').read_text()

def task(*args, python=sys.executable): return subprocess.run([python, 'tools/task.py', *args], cwd=ROOT, capture_output=True, text=True)

def test_task_help_and_misspelling():
    done = task('--help')
    assert 'demo' in done.stderr and 'test' in done.stderr
    done = task('dmeo')
    assert done.returncode and "no task 'dmeo'" in done.stderr and 'Traceback' not in done.stderr

def test_old_python_is_told_what_to_do(tmp_path):
    text = (ROOT / 'tools/task.py').read_text()
    probe = tmp_path / 'task.py'
    probe.write_text('import sys\nsys.version_info = (3, 8, 18)\n' + text)
    done = subprocess.run([sys.executable, probe, 'demo'], capture_output=True, text=True)
    assert done.returncode and 'needs Python 3.11 or newer' in done.stderr and 'PYTHON=' in done.stderr

def test_committed_files_name_no_machine():
    "Nothing that is published carries a path of the machine it was written on"
    files = subprocess.run(['git', 'ls-files', '*.py', '*.md', '*.ini', '*.yml', '*.toml', 'Makefile', '.ci/run'], cwd=ROOT, capture_output=True, text=True).stdout.split()
    found = [f for f in files if (ROOT / f).exists() and Path(f).parts[0] != 'tests' and re.search(r'/(?:home|Users|root|work)/\w', (ROOT / f).read_text(encoding='utf-8'))]
    assert not found

def test_links_of_the_front_page_resolve():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    local = [t for t in re.findall(r'\]\(([^)#]+)\)', text) if '://' not in t]
    assert local and not [t for t in local if not (ROOT / t).exists()]

def test_every_notebook_is_on_the_front_page():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    rooms = [f.relative_to(ROOT).as_posix() for f in sorted((ROOT / 'nbs').glob('*/*.ipynb')) if f.parts[-2][0] not in '._']
    assert len(rooms) > 80 and not [f for f in rooms if f'({f})' not in text]

def test_tables_of_the_front_page_are_those_of_the_results():
    "Findings from the results that come with the package, speed from bench/results.json: index.ipynb was run after they changed"
    from compare import read, readme_table
    from avmae_nb.recipes.findings import findings_markdown
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    for table in (findings_markdown(), readme_table(read(ROOT / 'bench' / 'results.json'))): assert table in text, 'stale: run index.ipynb, then make readme'
