"The terminal: options, one-line errors, exit codes"
import re, subprocess, sys
from pathlib import Path
import numpy as np, pytest, yaml
from avmae_nb.cli import configuration, main, parse
from avmae_nb.config import Pretrain, preset

CLIPS = Path(__file__).parents[1] / 'avmae_nb' / 'clips'

def run(capsys, *words):
    "Exit code, stdout, stderr"
    try: code = main([str(w) for w in words])
    except SystemExit as e: code = e.code
    return (code, *capsys.readouterr())

def test_settings_may_stand_anywhere():
    args = parse(['pretrain', 'train.batch=8', '--preset', 'vggsound', 'model.size=S', '--run', 'x', 'video.mask.ratio=0.95'])
    c = configuration(args)
    assert (c.train.batch, c.model.size, c.video.mask.ratio, c.audio.seconds) == (8, 'S', 0.95, 8.0)

def test_one_value_stands_for_a_tuple_of_one():
    assert configuration(parse(['finetune', 'classifier.classes=3'])).classifier.classes == (3,)
    assert configuration(parse(['pretrain', 'train.log_to=wandb'])).train.log_to == ('wandb',)

def test_warnings_are_one_plain_line(capsys):
    import warnings
    from avmae_nb.cli import note
    with warnings.catch_warnings():
        warnings.simplefilter('always'); warnings.showwarning = note
        warnings.warn('small: 1 files\nwere skipped')
    assert capsys.readouterr().err == 'avmae: note: small: 1 files were skipped\n'

def test_a_reader_that_goes_away():
    "`avmae recipes | head -1`"
    p = subprocess.Popen([sys.executable, '-c', 'import sys; from avmae_nb.cli import main; sys.exit(main(["recipes"]))'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    p.stdout.close()
    assert (p.stderr.read(), p.wait()) == ('avmae: stopped: nobody reads its output any more\n', 2)

def test_data_folder_sets_source(tmp_path):
    c = configuration(parse(['pretrain', '--data', str(tmp_path)]))
    assert (c.data.source, c.data.path) == ('folder', str(tmp_path))
    for command in ('pretrain', 'finetune'): assert configuration(parse([command, '--data', str(tmp_path), '--labels', 'folders'])).data.labels == 'folders'

def test_data_of_any_name(tmp_path):
    "A colon, a hash or a bracket in a folder's name is no YAML"
    from avmae_nb.cli_use import _changes
    for name in ('clips: new', 'take #2', '[raw]'):
        (tmp_path / name).mkdir()
        found = preset('tiny').override(*_changes(parse(['evaluate', 'runs/x', '--data', str(tmp_path / name), '--labels', 'folders']))).data
        assert (found.source, found.path, found.labels) == ('folder', str(tmp_path / name), 'folders')

def test_a_plan_names_the_command_that_was_typed(capsys, tmp_path):
    code, out, err = run(capsys, 'sweep', 'video.mask.ratio=0.5,0.9', '--columns', 'loss', '--seeds', '1', '--data', tmp_path, 'train.steps=3', '--plan')
    again = out.split('fits: ')[1].split(' --plan')[0]
    assert code == 0 and not err and 'seconds at least' in out
    args = parse(again.split()[1:])
    assert (args.grid, args.columns, args.seeds, args.data) == (['video.mask.ratio=0.5,0.9'], 'loss', 1, str(tmp_path)) and args.settings == ['train.steps=3']
    assert 'changes nothing' in run(capsys, 'run', 'a12-cost', '--row', 'A', 'train.steps=3', '--plan')[2]

def test_presets_print_a_loadable_file(capsys, tmp_path):
    code, out, _ = run(capsys, 'presets', 'audioset')
    (tmp_path / 'mine.yaml').write_text(out)
    assert code == 0 and Pretrain.load(tmp_path / 'mine.yaml') == preset('audioset')
    assert configuration(parse(['pretrain', '--config', str(tmp_path / 'mine.yaml'), 'train.seed=3'])) == preset('audioset').replace(**{'train.seed': 3})

@pytest.mark.parametrize('words, message', [
    (['pretrain', 'train.bacth=8'], "did you mean 'batch'?"),
    (['pretrain', 'train.batch'], 'not of the form name=value'),
    (['pretrain', '--preset', 'vgsound'], "did you mean 'vggsound'?"),
    (['pretrain', '--dta', 'videos'], "did you mean '--data'?"),
    (['pretrain', '--config', 'nope.yaml'], 'no configuration file nope.yaml'),
    (['pretrain', 'video.mask.ratio=1'], 'below 1'),
    (['pretrain', 'video.tubelet=(2,10,10)'], 'does not divide'),
    (['pretrain', 'model.encoder_stack.heads=3'], 'model'),
    (['pretrain', '--data', '/no/such/folder', '--fast'], '/no/such/folder'),
    (['pretrain', '--device', 'tpu', '--fast'], 'TPU was asked for'),
    (['presets', 'tny'], "did you mean 'tiny'?"),
    (['pretarin'], "did you mean 'pretrain'?"),
    (['pretrain', '--epochs', '3'], 'train.epochs=...'),
    (['finetune', '--views=2'], 'views=...'),
    (['finetune', 'classifier.classes=many'], 'wants a whole number'),
    (['finetune', '--init', '/no/such/run', '--fast'], 'no such file or folder'),
    (['pretrain', '--init', '/no/such/run', '--fast'], 'no such file or folder'),
    (['pretrain', '--init', 'vit.npz', '--fast'], 'no such file or folder'),
    (['pretrain', '--fit', '--fast'], 'nothing to take over with Pretrain.fitted'),
    (['show', '/no/such/run'], '/no/such/run'),
    (['inspect', '/no/such/folder/'], '/no/such/folder'),
])
def test_mistakes_are_one_line(capsys, words, message):
    code, out, err = run(capsys, *words)
    assert code in (1, 2) and message.lower() in (out + err).lower() and 'Traceback' not in err
    assert len(err.strip().splitlines()) <= 1

def test_pretraining_goes_on_from_weights(capsys):
    code, out, _ = run(capsys, 'pretrain', '--init', 'shipped', '--fit', '--fast', 'model.size=B', 'model.encoder=early')   # `name=value` comes last
    assert code != 0
    code, out, _ = run(capsys, 'pretrain', '--init', 'shipped', '--fit', '--fast', 'video.mask.ratio=0.5')
    assert code == 0 and 'decoder, from shipped' in out and '150 parameters restored, 0 fresh' in out

def test_debug_shows_the_traceback():
    with pytest.raises(ValueError): main(['presets', 'tny', '--debug'])

def test_run_folder_that_cannot_be_made(capsys, tmp_path):
    (tmp_path / 'file').write_text('')
    code, _, err = run(capsys, 'pretrain', '--run', tmp_path / 'file' / 'run')
    assert code == 2 and str(tmp_path / 'file') in err and len(err.strip().splitlines()) == 1

def test_inspect(capsys, tmp_path):
    (tmp_path / 'bad.mp4').write_bytes(b'not a film')
    code, out, _ = run(capsys, 'inspect', CLIPS, tmp_path)
    assert code == 1 and '3 files, 1 cannot be read' in out and 'bad.mp4' in out and re.search(r'launch.mp4: 8.0\d s, h264 398x224', out)

def test_inspect_empty_folder(capsys, tmp_path):
    code, _, err = run(capsys, 'inspect', tmp_path)
    assert code == 2 and 'no video or sound in it' in err

def test_help_has_examples():
    done = subprocess.run([sys.executable, '-c', 'from avmae_nb.cli import main; main(["--help"])'], capture_output=True, text=True)
    assert 'avmae pretrain --data' in done.stdout

def test_help_is_quick():
    "Neither JAX nor a decoder is imported before it is needed"
    code = 'import sys, avmae_nb.cli; print([m for m in ("jax", "flax", "av", "librosa", "matplotlib", "grain") if m in sys.modules])'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip() == '[]'

SMALL = ['model.positions=sinusoidal', 'video.frames=4', 'video.size=16', 'video.short_side=16', 'audio.seconds=0.32', 'audio.logmel.bins=32', 'data.clips=32', 'train.steps=4', 'train.batch=4', 'train.eval_clips=4',
         'model.encoder_stack={width: 16, layers: 2, heads: 2, mlp: 32}', 'model.decoder_stack={width: 16, layers: 1, heads: 2, mlp: 32}']

def test_demo_says_what_was_learned(capsys, tmp_path):
    code, out, _ = run(capsys, 'demo', '--run', tmp_path / 'run', *SMALL)
    assert code == 0
    for words in ('loss on held-out clips', 'step 0', 'step 4', 'mean patch', 'nearest in time', 'withheld', 'results.png', 'checkpoint'): assert words in out
    assert (tmp_path / 'run/pictures/results.png').stat().st_size > 1000 and list((tmp_path / 'run/sounds').glob('*.wav')) and (tmp_path / 'run/summary.txt').exists()
    code, out, _ = run(capsys, 'demo', '--run', tmp_path / 'run', *SMALL)   # finished already: says the same again
    assert code == 0 and 'going on from step 4' in out and 'mean patch' in out
    code, _, err = run(capsys, 'demo', '--run', tmp_path / 'run', *SMALL, 'train.batch=8')
    assert code == 2 and 'train.batch: 4 in the run, 8 now' in err

def test_show_without_checkpoint(capsys, tmp_path):
    preset('tiny').save(tmp_path / 'config.yaml')
    code, _, err = run(capsys, 'show', tmp_path)
    assert code == 2 and 'no checkpoint' in err

def test_fast_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, 'pretrain', '--fast', *SMALL)
    assert code == 0 and 'it runs' in out and not list(tmp_path.iterdir())

def test_pretrain_on_a_folder(capsys, tmp_path):
    code, out, _ = run(capsys, 'pretrain', '--data', CLIPS, '--run', tmp_path / 'run', *SMALL, 'train.batch=2', 'train.eval_clips=2')
    assert code == 0 and 'finished' in out and (tmp_path / 'run/config.yaml').exists()
    code, out, _ = run(capsys, 'show', tmp_path / 'run', '--clips', '2')
    assert code == 0 and 'mean patch' in out

def test_check(capsys, tmp_path):
    code, out, _ = run(capsys, 'check', '--save', tmp_path / 'check.html', *SMALL)
    assert code == 0 and 'clips' in out and (tmp_path / 'check.html').stat().st_size > 1000

def test_embed_and_export(capsys, tmp_path):
    "From a run to vectors of files, to a folder with a card, to one file"
    assert run(capsys, 'pretrain', '--run', tmp_path / 'run', *SMALL, 'train.steps=2')[0] == 0
    code, out, _ = run(capsys, 'embed', tmp_path / 'run', CLIPS, '--out', tmp_path / 'e.npz', '--hop', '5')
    with np.load(tmp_path / 'e.npz') as z: assert code == 0 and '2 files' in out and z['video'].shape == (len(z['clip']), 16) and np.isfinite(z['audio']).all()
    code, out, _ = run(capsys, 'export', tmp_path / 'run', tmp_path / 'given')
    assert code == 0 and '2 of batch 4' in (tmp_path / 'given/README.md').read_text()
    code, out, _ = run(capsys, 'export', tmp_path / 'given', tmp_path / 'm.jax', '--what', 'pooled')
    assert code == 0 and 'deserialize' in out and (tmp_path / 'm.jax').stat().st_size > 1000
    code, _, err = run(capsys, 'export', tmp_path / 'run', tmp_path / 'given')
    assert code == 2 and 'not empty' in err
    code, _, err = run(capsys, 'embed', tmp_path / 'nothing', CLIPS, '--out', tmp_path / 'f.npz')
    assert code == 2 and 'no file or folder' in err
