"""Write the notebooks of the recipes, nbs/recipes/pages/NAME.ipynb, from one template and the committed results; outputs are made here.

usage: python tools/recipe_pages.py [NAME ...] [--store runs/recipes]

Pictures of a recipe's own checkpoint need the store in which `avmae run` has trained it; without --store the page keeps those that it has."""
import argparse, hashlib, json
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from avmae_nb.recipes.definitions import RECIPES, open_recipe
from avmae_nb.recipes.recipe import COLUMNS
from avmae_nb.recipes.run import stored_result

ROOT = Path(__file__).resolve().parents[1]
STORE = 'runs/recipes'
PANELS = f"#| notest\nfrom avmae_nb.recipes.definitions import open_size\nfrom avmae_nb.recipes.recipe import cell_stage\nfrom avmae_nb.recipes.stages import train_stage\nfrom avmae_nb.view.panel import Panel\nfrom avmae_nb.view.paper import figure_a2\nfrom avmae_nb.view.viewer import view\nstage = cell_stage(result.recipe, result.recipe.rows[0], open_size('tiny'), 0, 'error V')\nPanel(figure_a2(view(train_stage(stage, '{STORE}'))), 'Original, masked and reconstructed frames and spectrograms of three held-out clips')"

def asked(r) -> str:
    "What the paper asked and what is measured here"
    columns = '\n'.join(f'* `{c}`: {COLUMNS[c].about}' for c in r.columns)
    published = sum(len(row.published) for row in r.rows)
    return f'{r.source[0].upper() + r.source[1:]} of the paper. {"Published values are shown beside" if published else "Its values are not published in public material"}; `?` where none could be found.\n\n{columns}' + (f'\n\n{r.remarks}' if r.remarks else '')

def cells(r) -> list[tuple[str, str]]:
    "Kind and source of each cell"
    known = stored_result(r.name)
    out = [('markdown', f'# {r.title}\n\n> {r.question}\n\n{asked(r)}'), ('code', f"from avmae_nb.recipes.run import stored_result\nresult = stored_result({r.name!r})\nresult")]
    if known.seeds: out.append(('code', 'from avmae_nb.recipes.figures import figure\nfigure(result)'))
    if r.figure == 'panels': out += [('markdown', 'Its own checkpoint on held-out clips:'), ('code', PANELS)]
    if known.curves and r.figure != 'curves': out += [('markdown', 'How the pre-trainings went:'), ('code', 'from avmae_nb.recipes.figures import curves\ncurves(result)')]
    out += [('markdown', '## What agrees, and what one cannot tell'), ('code', 'from avmae_nb.recipes.findings import verdict_page\nverdict_page(result)'),
            ('markdown', '## Running it\n\nSize tiny, three seeds; what other recipes have trained under `runs/recipes` is not trained again, and a run that was cut goes on.'),
            ('code', "#| notest\nfrom avmae_nb.recipes.definitions import open_size\nfrom avmae_nb.recipes.run import budget, run_recipe\nsize = open_size('tiny')\nprint(budget(result.recipe, size, 3, 'runs/recipes'))\nrun_recipe(result.recipe, size, range(3), 'runs/recipes')")]
    return out + [('markdown', '## At the size of the paper\n\nWhat it would take, counted from shapes and published peaks.'), ('code', f"#| slow\nfrom avmae_nb.recipes.definitions import open_size\nfrom avmae_nb.recipes.estimate import plan_recipe\nplan_recipe(result.recipe, open_size('paper'))")]

def outputs(shell, source: str) -> list[dict]:
    "What a cell shows, as a notebook keeps it"
    with capture_output() as seen: done = shell.run_cell(source)
    done.raise_error()
    out = [{'output_type': 'stream', 'name': 'stdout', 'text': seen.stdout.splitlines(True)}] if seen.stdout and done.result is None else []
    if done.result is None: return out
    data, meta = shell.display_formatter.format(done.result)
    lines = {k: v.splitlines(True) if k.startswith('text/') else v for k, v in data.items()}
    return out + [{'output_type': 'execute_result', 'execution_count': None, 'data': lines, 'metadata': meta}]

def write(r, store: str | None = None) -> Path:
    "One notebook"
    path, shell, made = ROOT/'nbs'/'recipes'/'pages'/f'{r.name}.ipynb', InteractiveShell.instance(), []
    kept = {''.join(c['source']): c['outputs'] for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code'} if path.exists() else {}
    def shown(source):
        if not source.startswith('#| notest'): return outputs(shell, source)
        return outputs(shell, source.replace(f"'{STORE}'", repr(store))) if store and source == PANELS else kept.get(source, [])
    for i, (kind, source) in enumerate(cells(r)):
        cell = {'cell_type': kind, 'id': hashlib.sha1(f'{r.name}{i}{kind}'.encode()).hexdigest()[:8], 'metadata': {}, 'source': source.splitlines(True)}
        if kind == 'code': cell |= {'execution_count': None, 'outputs': shown(source)}
        made.append(cell)
    path.parent.mkdir(exist_ok=True)
    nb = {'cells': made, 'metadata': {'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}}, 'nbformat': 4, 'nbformat_minor': 5}
    path.write_text(json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + '\n')
    return path

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', metavar='NAME', help='all if none')
    p.add_argument('--store', metavar='FOLDER')
    args = p.parse_args()
    for name in args.names or RECIPES: print(write(open_recipe(name), args.store))

if __name__ == '__main__': main()
