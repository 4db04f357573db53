"Recipes: sharing, resuming, tables, rules, hashes that stay, results that belong to the definitions"
from dataclasses import replace
from pathlib import Path
import pytest
from avmae_nb.config import ConfigError, preset
from avmae_nb.recipes.definitions import RECIPES, open_recipe, open_size
from avmae_nb.recipes.figures import curves, figure
from avmae_nb.recipes.findings import FINDINGS, judge
from avmae_nb.recipes.measures import Evaluation, measure
from avmae_nb.recipes.recipe import Base, Recipe, Row, Size, cell_stage, cells, column, has, stages
from avmae_nb.recipes.run import digests, only_rows, read_result, results_folder, run_recipe, stored_result
from avmae_nb.recipes.stages import Stage, finished, train_stage
from avmae_nb.recipes.sweep import read_grid, sweep_recipe
from avmae_nb.tasks import Augment
from toys import toy_config, toy_tuning

QUICK = {'train.steps': 6, 'train.eval_clips': 0, 'train.checkpoint_every': 2}
TOYS = Size('tiny', {'vggsound': Base(toy_config(**QUICK), toy_tuning(augment=Augment(), **QUICK))}, Evaluation(clips=8, probe_clips=16), 2)
TABLE = Recipe('toys', 'Toys', 'nowhere', 'Does it run?', ('AV', 'loss'),
               (Row('ours', published={'AV': 64.2}), Row('native', {}, {'encoder': 'native'}, columns=('AV',))))

def test_names_of_stages_stay():
    "Where this changes, every finished stage and every stored result is lost: change it on purpose only"
    assert Stage(preset('tiny')).name == 'pretrain-a6906356e10a'
    assert Stage(preset('tiny').replace(**{'train.log_every': 99, 'data.workers': 3})).name == Stage(preset('tiny')).name

@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    store = tmp_path_factory.mktemp('store')
    return store, run_recipe(TABLE, TOYS, range(2), store, 'avmae run toys')

def test_every_cell_has_a_number_for_each_seed(ran):
    for row, name in cells(TABLE, TOYS): assert set(ran[1].of(row.name, name)) == {0, 1}
    assert '64.2' in repr(ran[1]) and '±' in repr(ran[1])

def test_stages_are_shared(ran):
    done = list(ran[0].glob('*/finished.json'))
    assert len(done) == len(stages(TABLE, TOYS, range(2))) == 2 * (1 + 2)   # ours and native start from one pre-training

def test_a_second_run_trains_nothing(ran):
    before = {f: f.stat().st_mtime_ns for f in ran[0].glob('*/log.jsonl')}
    again = run_recipe(TABLE, TOYS, range(2), ran[0])
    assert {f: f.stat().st_mtime_ns for f in ran[0].glob('*/log.jsonl')} == before
    assert {r: set(c) for r, c in again.values.items()} == {r: set(c) for r, c in ran[1].values.items()}

def test_pre_trainings_are_drawn_once(ran):
    "Two rows start from one: one curve, kept in the file and when another row runs alone"
    (name, curve), = ran[1].curves.items()
    assert name == 'ours / native' and curve['stage'] == cell_stage(TABLE, TABLE.rows[0], TOYS, 0, 'loss').digest and len(curve['steps']) == len(curve['losses']) == 6
    alone = run_recipe(only_rows(TABLE, ['ours']), TOYS, [0], ran[0])
    assert list(alone.curves) == ['ours'] and alone.curves['ours']['losses'] == curve['losses'] and 'at the end' in curves(alone).text
    assert 'AV: points above ours: native' in figure(ran[1]).text

def test_a_cut_stage_goes_on_and_gives_the_same(ran, tmp_path):
    stage = Stage(TOYS.base('vggsound').pretrain)
    class Cut:
        def after_step(self, learner, step, metrics):
            if step == 4: learner.stopped = 'KeyboardInterrupt'
    from avmae_nb.train.pretrain import pretrain
    pretrain(stage.config, tmp_path/stage.name, [Cut()]).fit()
    assert finished(tmp_path/stage.name) is None
    train_stage(stage, tmp_path)
    assert finished(tmp_path/stage.name)['steps'] == 6
    assert measure(stage, 'curve', tmp_path)['losses'][-1] == pytest.approx(measure(stage, 'curve', ran[0])['losses'][-1], abs=1e-5)

def test_a_diverged_stage_is_a_result(tmp_path):
    wild = toy_config(**QUICK, **{'train.nan_limit': 2, 'optim.base_learning_rate': 1e30, 'optim.warmup_epochs': 0.0})
    found = measure(Stage(wild), 'curve', tmp_path)
    assert found['stable'] == 0.0 and found['loss'] == float('inf') and found['diverged'] is not None
    assert repr(measure(Stage(wild), 'curve', tmp_path)) == repr(found)   # NaN is not equal to itself

def test_a_sweep_is_a_recipe(ran):
    sweep = sweep_recipe(read_grid(['audio.mask.ratio=0.7,0.8']), ('loss',))
    result = run_recipe(sweep, TOYS, [0], ran[0])
    assert len(result.values) == 2 and 'best' in figure(result).text
    assert {c['stage'] for c in result.curves.values()} == {s.digest for s in stages(sweep, TOYS, [0]).values()}

def test_wrong_names_say_the_nearest():
    for call, word in ((lambda: open_recipe('a5-mask-adio'), 'a5-mask-audio'), (lambda: column('probe X'), 'probe'), (lambda: open_size('tinny'), 'tiny'), (lambda: stored_result('t1'), 't1-architecture')):
        with pytest.raises(ConfigError, match=word): call()

@pytest.mark.parametrize('name', RECIPES)
def test_published_values_are_of_columns(name):
    r = RECIPES[name]
    for row in r.rows:
        for c in row.published: assert has(r, row, c), (row.name, c)

def test_findings_rest_on_rows_that_exist():
    assert len(FINDINGS) == 11
    for f in FINDINGS: judge(f, {r: replace(stored_result(r), values={}) for r in f.recipes})

@pytest.mark.parametrize('file', sorted(results_folder().glob('*.json')), ids=lambda f: f.stem)
def test_stored_results_belong_to_the_definitions(file):
    "A definition that changed makes its numbers those of another experiment: run it again, or take the file away"
    found = read_result(file)
    now = digests(found.recipe, open_size(found.size))
    for row, by in found.values.items():
        for c in by: assert found.facts['digests'][row][c] == now[row][c], (row, c)
    assert found.facts['command'].startswith('avmae run') and found.facts['versions']['jax'] and found.facts['minutes'] > 0

def test_the_smallest_stored_result_comes_out_again(run_python, tmp_path):
    "A classifier from scratch, trained and tested by the command, with XLA's own settings: the same but for what another processor's rounding does to 200 steps"
    row, out = 'scratch, B', tmp_path / 'found.json'
    words = ['run', 'a2-scale', '--row', row, '--seeds', '1', '--store', str(tmp_path), '--out', str(out)]
    run_python(f'from avmae_nb.cli import main; raise SystemExit(main({words!r}))', XLA_FLAGS='')
    found = read_result(out, only_rows(open_recipe('a2-scale'), [row]))
    assert found.of(row, 'AV')[0] == pytest.approx(stored_result('a2-scale').of(row, 'AV')[0], abs=0.06)   # of 256 clips

def test_recipe_pages_are_those_of_the_definitions():
    root = Path(__file__).parents[1]
    assert {p.stem for p in (root/'nbs/recipes/pages').glob('*.ipynb')} == set(RECIPES)
