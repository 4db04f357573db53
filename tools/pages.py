"""README.md from index.ipynb, and HTML pages of all notebooks, with nbconvert alone (quarto users have nbs/_quarto.yml).

  python tools/pages.py readme [--check]   write README.md and index_files/, or say whether they are up to date
  python tools/pages.py site               pages in _docs, starting at _docs/index.html
"""
import re, shutil, sys
from html import escape
from pathlib import Path
import nbformat
from nbconvert import HTMLExporter, MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
DIRECTIVE = re.compile(r'^#\|.*\n?', re.M)

def flags(source):
    "The directives of a cell, e.g. {'hide', 'echo: false'}"
    return {line[2:].strip() for line in source.splitlines() if line.startswith('#|')}

def strip(cell):
    "The cell as a reader should see it, or None"
    marks = flags(cell.source)
    if cell.cell_type == 'raw' and cell.source.startswith('---'): return None   # words to nbdev
    if 'hide' in marks or any(m.startswith('default_exp') for m in marks): return None
    cell.source = '' if marks & {'echo: false', 'hide_input'} else DIRECTIVE.sub('', cell.source).strip('\n')
    if marks & {'output: false', 'hide_output'}: cell.outputs = []
    if cell.cell_type == 'code': cell.execution_count = None
    return cell if cell.source or cell.get('outputs') else None

def read(path):
    "A notebook without hidden cells and directives"
    nb = nbformat.read(path, 4)
    nb.cells = [c for c in map(strip, nb.cells) if c is not None]
    nb.metadata.language_info = {'name': 'python'}   # cleaning takes it out, fences and colours want it
    return nb

def title(nb): return next((line[2:].strip() for c in nb.cells if c.cell_type == 'markdown' for line in c.source.splitlines() if line.startswith('# ')), 'untitled')

def alt_texts(nb):
    "What the pictures' outputs say they show, in order: the alt text that stands in their metadata or in their text face"
    for cell in nb.cells:
        for out in cell.get('outputs', []):
            if 'image/png' in out.get('data', {}): yield out.metadata.get('image/png', {}).get('alt') or out.data.get('text/plain', 'figure').strip('<>').split('\n')[0]

def readme():
    "Path relative to the project -> bytes, of everything that is made from index.ipynb"
    nb = read(ROOT / 'index.ipynb')
    body, made = MarkdownExporter().from_notebook_node(nb)
    pictures = {f'index_files/{name}': data for name, data in made['outputs'].items()}
    alts = iter(alt_texts(nb))
    body = re.sub(r'!\[[^\]]*\]\((output_[^)]+)\)', lambda m: f'![{next(alts, "figure")}](index_files/{m[1]})', body)
    body = re.sub(r'^```python\n\s*```\n', '', body, flags=re.M)   # a cell of which only the output is shown
    text = re.sub(r'\n{3,}', '\n\n', body).strip()
    return {'README.md': f'<!-- made from index.ipynb by tools/pages.py: edit that, then run make readme -->\n\n{text}\n'.encode(), **pictures}

def write_readme(check):
    "0 if the files were up to date or have been written, 1 if they are stale"
    made = readme()
    old = {str(p.relative_to(ROOT)) for p in (ROOT / 'index_files').glob('*')}
    stale = [f for f, data in made.items() if not (ROOT / f).exists() or (ROOT / f).read_bytes() != data] + sorted(old - set(made))
    if check: return print('stale: ' + ', '.join(stale)) or 1 if stale else 0
    shutil.rmtree(ROOT / 'index_files', ignore_errors=True)
    for f, data in made.items():
        (ROOT / f).parent.mkdir(exist_ok=True)
        (ROOT / f).write_bytes(data)
    return 0

def page_name(path): return re.sub(r'^\d+[a-z]?_', '', path.stem) + '.html'

def link_pages(html):
    "Links between notebooks become links between pages"
    def page(m):
        folder, _, name = m[1].removeprefix('nbs/').rpartition('/')
        return f'href="{folder}{"/" * bool(folder)}{page_name(Path(name))}'
    return re.sub(r'href="(?!https?:)([^"#]+\.ipynb)', page, html)

def site():
    "One HTML page for each notebook, and a list of them under the front page"
    out = ROOT / '_docs'
    shutil.rmtree(out, ignore_errors=True)
    found = sorted(p for p in (ROOT / 'nbs').rglob('*.ipynb') if not any(part.startswith(('.', '_')) for part in p.parts[len(ROOT.parts):]))
    listed = []
    for path in found:
        nb, target = read(path), out / path.relative_to(ROOT / 'nbs').with_name(page_name(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(link_pages(HTMLExporter(theme='light').from_notebook_node(nb, resources={'metadata': {'name': title(nb)}})[0]), encoding='utf-8')
        if target.name != 'index.html': listed.append(f'<li><a href="{target.relative_to(out).as_posix()}">{escape(title(nb))}</a> <small>{path.relative_to(ROOT).as_posix()}</small></li>')
    front = out / 'index.html'
    contents = f'<main style="padding: 2em"><h2>All notebooks</h2><ul>{"".join(listed)}</ul></main>'
    front.write_text(front.read_text(encoding='utf-8').replace('</body>', contents + '</body>') if front.exists() else contents, encoding='utf-8')
    print(f'{len(found)} pages: {front}')
    return 0

if __name__ == '__main__':
    if len(sys.argv) < 2 or sys.argv[1] not in ('readme', 'site'): sys.exit(__doc__)
    sys.exit(site() if sys.argv[1] == 'site' else write_readme('--check' in sys.argv))
