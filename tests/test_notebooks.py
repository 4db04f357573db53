"What holds for every notebook and every exported module"
import ast, json, re
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = [ROOT / 'index.ipynb', *sorted(p for p in (ROOT / 'nbs').rglob('*.ipynb') if not p.is_symlink() and '.ipynb_checkpoints' not in p.parts)]
MODULES = sorted(p for p in (ROOT / 'avmae_nb').rglob('*.py') if not p.name.startswith('_'))
FORBIDDEN = {'torch', 'torchvision', 'torchaudio', 'tensorflow', 'clu', 'pkg_resources'}
MAX_BYTES, MAX_LINES, MAX_FUNCTION, MAX_ARGUMENTS = 1_000_000, 320, 40, 6
LONGER = {'config.py': 430}   # a list of fields, each with its comment and its limits

each_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT)))
each_module = pytest.mark.parametrize('path', MODULES, ids=lambda p: str(p.relative_to(ROOT)))

def load(path): return json.loads(path.read_text(encoding='utf-8'))
def code(path): return [''.join(c['source']) for c in load(path)['cells'] if c['cell_type'] == 'code']
def outputs(path): return [o for c in load(path)['cells'] for o in c.get('outputs', [])]
def functions(path): return [n for n in ast.walk(ast.parse(path.read_text(encoding='utf-8'))) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]

def imported(source):
    "Top-level names of the packages that a piece of code imports; magics and shell lines are left out"
    tree = ast.parse(re.sub(r'^(\s*)[%!].*$', r'\1pass', source, flags=re.M))
    for n in ast.walk(tree):
        if isinstance(n, ast.Import): yield from (a.name.split('.')[0] for a in n.names)
        if isinstance(n, ast.ImportFrom) and n.module and not n.level: yield n.module.split('.')[0]

@each_notebook
def test_no_widget_state_and_small(path):
    assert 'widgets' not in load(path)['metadata'], 'saved widget state hides the static picture: clear it and save again'
    assert path.stat().st_size < MAX_BYTES, 'too large to read on GitHub: lower the figures\' resolution'

@each_notebook
def test_saved_outputs_hold_no_errors(path):
    assert not [o['evalue'] for o in outputs(path) if o['output_type'] == 'error']

@each_notebook
def test_opens_with_title_and_summary(path):
    text = ''.join(next(c for c in load(path)['cells'] if c['cell_type'] == 'markdown')['source'])
    assert re.match(r'# .+\n\n?> .+', text), 'a notebook opens with "# Title" and "> one line"'

@each_notebook
def test_no_paths_of_one_machine(path):
    assert not re.findall(r'(?:/home/|/Users/|/root/|/work/)[\w.]+', json.dumps(load(path)))

@each_notebook
def test_no_forbidden_imports_in_cells(path):
    assert not FORBIDDEN & {name for source in code(path) if not source.lstrip().startswith('%%') for name in imported(source)}

@each_module
def test_no_forbidden_imports(path):
    assert not FORBIDDEN & set(imported(path.read_text(encoding='utf-8')))

@each_module
def test_short(path):
    text = path.read_text(encoding='utf-8')
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith('# %%')]
    assert len(lines) <= LONGER.get(path.name, MAX_LINES), f'{len(lines)} lines: split the notebook'
    long = [f'{f.name}: {f.end_lineno - f.lineno + 1} lines' for f in functions(path) if f.end_lineno - f.lineno + 1 > MAX_FUNCTION]
    assert not long, long

@each_module
def test_few_arguments(path):
    def count(f): return sum(a.arg not in ('self', 'cls') for a in [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs])
    many = [f'{f.name}: {count(f)}' for f in functions(path) if count(f) > MAX_ARGUMENTS]
    assert not many, f'more than {MAX_ARGUMENTS} arguments: group them in a dataclass: {many}'

@each_module
def test_public_names_are_documented(path):
    tree = ast.parse(path.read_text(encoding='utf-8'))
    public = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith('_')]
    bare = [n.name for n in public if not ast.get_docstring(n) and n.end_lineno > n.lineno]   # a one-liner says itself what it does
    assert not bare, bare
