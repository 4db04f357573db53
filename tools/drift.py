"""Are the notebooks clean, and do avmae_nb and README.md say what the notebooks say? Works on a copy and changes nothing here."""
import os, shutil, subprocess, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

def generated(folder): return {p.relative_to(folder): p.read_text(encoding='utf-8') for p in sorted((folder / 'avmae_nb').rglob('*.py'))}
def saved(folder):
    files = [folder / 'index.ipynb', *(folder / 'nbs').rglob('*.ipynb')]
    return {p.relative_to(folder): p.read_text(encoding='utf-8') for p in sorted(files) if p.exists() and not any(part.startswith(('.', '_')) for part in p.relative_to(folder).parts)}

def copy(folder):
    "Notebooks and settings, and the package without what is generated"
    for name in ('settings.ini', 'setup.py', 'index.ipynb'):
        if (ROOT / name).exists(): shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / 'nbs', folder / 'nbs', symlinks=True, ignore=shutil.ignore_patterns('.ipynb_checkpoints', '_proc', 'runs'))
    (folder / 'avmae_nb').mkdir()

def differing(here, there, why):
    "One line for each file that differs or is on one side only"
    return [f'{p}: {why if p in here and p in there else "missing" if p in there else "has no notebook"}' for p in sorted({*here, *there}) if here.get(p) != there.get(p)]

def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy(folder)
        for command in ('nbdev_clean', 'nbdev_export'): subprocess.run([command], cwd=folder, check=True, env={**os.environ, 'PYTHONPATH': str(folder)})
        found = differing(saved(ROOT), saved(folder), 'is not clean') + differing(generated(ROOT), generated(folder), 'differs from its notebook')
    if subprocess.run([sys.executable, 'tools/pages.py', 'readme', '--check'], cwd=ROOT).returncode: found.append('README.md: differs from index.ipynb')
    if found: sys.exit('\n'.join(found) + '\nmend all of it with: make notebooks')

if __name__ == '__main__': main()
