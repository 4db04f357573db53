"Folders written by each released version load, give the numbers they gave, and train on; those of a later version say what to do"
import json, sys, tarfile
from pathlib import Path
import pytest, yaml
from avmae_nb.config import ConfigError, Pretrain
from avmae_nb.interop.folder import load as load_folder
from avmae_nb.interop.released import WeightsError
from avmae_nb.train import checkpoint
from avmae_nb.train.checkpoint import RunError, read_config, run_format, saved_steps
from avmae_nb.train.pretrain import load, pretrain

FOLDERS = Path(__file__).parent / 'folders'
sys.path.insert(0, str(FOLDERS))
import make

@pytest.fixture(params=sorted(FOLDERS.glob('*.tar.xz')), ids=lambda p: p.name.removesuffix('.tar.xz'))
def released(request, tmp_path):
    "The folders of one version"
    with tarfile.open(request.param) as tar: tar.extractall(tmp_path, **{'filter': 'data'} if hasattr(tarfile, 'data_filter') else {})   # Python 3.11 has filters from 3.11.4
    return tmp_path

def close(a, b): return {k: {m: pytest.approx(v, rel=1e-5) for m, v in x.items()} for k, x in b.items()} == a

def test_folders_of_released_versions_give_their_numbers(released):
    assert close(make.numbers(released), json.loads((released / 'expected.json').read_text()))

def test_runs_of_released_versions_train_on(released, capsys):
    config = read_config(released / 'pretrain', Pretrain)
    learner = pretrain(config, released / 'pretrain')
    assert learner.steps_done == saved_steps(released / 'pretrain')[-1] > 0
    learner.fit()
    assert run_format(released / 'pretrain') == checkpoint.FORMAT

def test_a_folder_without_a_number_is_the_first_format(released):
    (released / 'pretrain/format.json').unlink(missing_ok=True)
    assert run_format(released / 'pretrain') == 0
    load(released / 'pretrain')
    assert run_format(released / 'pretrain') == 0   # looking changes nothing
    pretrain(read_config(released / 'pretrain', Pretrain), released / 'pretrain')
    assert run_format(released / 'pretrain') == checkpoint.FORMAT

def test_a_later_format_says_what_to_do(released):
    before = (released / 'pretrain/config.yaml').read_bytes()
    (released / 'pretrain/format.json').write_text('{"format": 7, "written_by": "3.0"}')
    for act in (lambda: load(released / 'pretrain'), lambda: pretrain(make.small(__import__('toys').TOY), released / 'pretrain')):
        with pytest.raises(RunError, match='avmae_nb 3.0 in format 7.*pip install -U avmae_nb'): act()
    assert (released / 'pretrain/config.yaml').read_bytes() == before
    file = released / 'exported/config.yaml'
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), 'format': 7}))
    with pytest.raises(WeightsError, match='format 7.*pip install -U'): load_folder(released / 'exported')

def test_formats_are_brought_up_step_by_step(released, monkeypatch):
    "As a later version would: a field that was renamed twice"
    file = released / 'pretrain/config.yaml'
    values = yaml.safe_load(file.read_text())
    values['train']['random_seed'] = values['train'].pop('seed') + 5
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match='random_seed'): read_config(released / 'pretrain', Pretrain)
    def renamed(old, new): return lambda v: {**v, 'train': {new if k == old else k: x for k, x in v['train'].items()}}
    monkeypatch.setattr(checkpoint, 'FORMAT', 3)
    monkeypatch.setattr(checkpoint, 'UPGRADES', {0: lambda v: v, 1: renamed('random_seed', 'the_seed'), 2: renamed('the_seed', 'seed')})
    assert read_config(released / 'pretrain', Pretrain).train.seed == 5
    assert read_config(released / 'pretrain', Pretrain).train.steps == 4

def test_every_format_has_a_way_up(): assert sorted(checkpoint.UPGRADES) == list(range(checkpoint.FORMAT))
