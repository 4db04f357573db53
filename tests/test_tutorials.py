"The tutorials run from top to bottom, slow cells too, with the short parameters that papermill gives them"
import json
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / 'nbs' / 'tutorials').glob('*.ipynb'))
each = pytest.mark.parametrize('path', TUTORIALS, ids=lambda p: p.stem)

def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
def source(cell): return ''.join(cell['source'])
def parameters(path): return [c for c in cells(path) if 'parameters' in c['metadata'].get('tags', [])]

@each
def test_opens_in_colab(path):
    text = '\n'.join(source(c) for c in cells(path)[:3])
    assert f'colab.research.google.com' in text and f'nbs/tutorials/{path.name}' in text, 'the badge that opens this notebook in Colab'

@each
def test_installs_in_one_cell(path):
    assert sum('pip install' in source(c) for c in cells(path) if c['cell_type'] == 'code') == 1

@each
def test_has_parameters(path):
    "papermill -p fast True, -p run FOLDER"
    assert len(parameters(path)) == 1
    names = {line.split('=')[0].split(':')[0].strip() for line in source(parameters(path)[0]).splitlines() if '=' in line}
    assert {'fast', 'run'} <= names, names

@each
def test_runs(path, tmp_path):
    papermill = pytest.importorskip('papermill')
    papermill.execute_notebook(path, tmp_path / path.name, {'fast': True, 'run': str(tmp_path / 'run')}, kernel_name='python3', cwd=path.parent, progress_bar=False, execution_timeout=900)
    assert not [o for c in cells(tmp_path / path.name) for o in c.get('outputs', []) if o['output_type'] == 'error']

def test_masks_can_be_played_with_at_once(tmp_path):
    "The shipped model is opened; nothing is trained or written"
    papermill = pytest.importorskip('papermill')
    path = ROOT / 'nbs/tutorials/04_play_with_masks.ipynb'
    papermill.execute_notebook(path, tmp_path / path.name, {'fast': True}, kernel_name='python3', cwd=tmp_path, progress_bar=False, execution_timeout=900)
    assert 'step' not in ''.join(''.join(o.get('text', '')) for c in cells(tmp_path / path.name) for o in c.get('outputs', []))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
