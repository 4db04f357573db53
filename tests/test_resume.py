"A run survives kill -9 at any moment, signals, a second process, a full disk and damaged files: nothing is lost, and the numbers are those of an uninterrupted run"
import json, os, resource, shutil, signal, subprocess, sys, time
from pathlib import Path
import jax, numpy as np, pytest
from avmae_nb.config import ConfigError
from avmae_nb.train.callbacks import read_log
from avmae_nb.train.checkpoint import CheckpointError, RunError, run_lock, saved_steps
from avmae_nb.train.pretrain import load, pretrain
from toys import rows, toy_config

SCRIPT = '''
import hashlib, sys, time, jax, numpy as np
sys.path.insert(0, "tests")
from toys import toy_config
from avmae_nb.train.pretrain import pretrain
class Tell:
    shows_progress = True
    def at_step(self, learner, step): print("step", step, flush=True); time.sleep(float(sys.argv[2]))
learner = pretrain(toy_config(), sys.argv[1], callbacks=[Tell()])
print("ready", learner.steps_done, flush=True)
learner.fit()
h = hashlib.sha256()
for x in jax.tree.leaves(learner.state): h.update(np.asarray(x).tobytes())
print("end", learner.steps_done, h.hexdigest(), flush=True)
'''

def start(run, pause=0.0):
    "A training process whose lines can be read"
    return subprocess.Popen([sys.executable, '-c', SCRIPT, str(run), str(pause)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

def lines_until(process, wanted: str) -> list[str]:
    "Lines up to one that starts with `wanted`, or to the end"
    out = []
    for line in process.stdout:
        out.append(line.strip())
        if line.startswith(wanted): break
    return out

def finish(process) -> list[str]:
    out = lines_until(process, 'end')
    process.wait(60)
    assert out and out[-1].startswith('end'), '\n'.join(out[-30:])
    return out

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "The uninterrupted run: its folder and the hash of its final state"
    run = tmp_path_factory.mktemp('whole')/'run'
    return run, finish(start(run))[-1].split()[2]

def unfinished(run) -> bool: return any((run/'checkpoints').glob('*orbax-checkpoint-tmp*')) if (run/'checkpoints').exists() else False

def kill_in_save(process, run, seconds=60):
    "Kill as soon as a half-written checkpoint is seen"
    end = time.time() + seconds
    while time.time() < end and process.poll() is None and not unfinished(run): time.sleep(0.0005)
    process.kill(); process.wait()
    return unfinished(run)

def test_kill_at_any_moment(whole, tmp_path):
    run, cut_short = tmp_path/'run', []
    p = start(run); lines_until(p, 'ready'); p.kill(); p.wait()                      # before the first step
    p = start(run, 0.05); lines_until(p, 'step 3'); cut_short.append(kill_in_save(p, run))   # while the first checkpoint is being written
    p = start(run, 0.05); lines_until(p, 'step 7'); p.kill(); p.wait()               # between checkpoints
    p = start(run, 0.05); lines_until(p, 'step 7'); cut_short.append(kill_in_save(p, run))
    p = start(run, 0.05); lines_until(p, 'step 14'); p.kill(); p.wait()
    log = (run/'log.jsonl').read_text()
    (run/'log.jsonl').write_text(log + '{"step": 15, "lo')                           # and a line cut off by a lost machine
    assert finish(start(run))[-1].split()[2] == whole[1]
    assert rows(read_log(run)) == rows(read_log(whole[0]))
    assert saved_steps(run) == saved_steps(whole[0]) and not unfinished(run)
    assert any(cut_short), 'no kill came in mid-save: the test does not test it'

def test_second_process_and_kill_frees_the_lock(tmp_path):
    run = tmp_path/'run'
    p = start(run, 0.3); lines_until(p, 'step 2')
    with pytest.raises(RunError, match=f'in use by process {p.pid}'): pretrain(toy_config(), run)
    p.kill(); p.wait()
    with run_lock(run): pass

@pytest.mark.parametrize('number, code', [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_signals_leave_a_checkpoint(whole, tmp_path, number, code):
    run = tmp_path/'run'
    p = start(run, 0.1); lines_until(p, 'step 6')
    p.send_signal(number)
    rest = p.communicate(timeout=120)[0]
    assert p.returncode == code and f'stopped by {signal.Signals(number).name}' in rest
    step = saved_steps(run)[-1]
    assert step >= 6 and f'after step {step} of 16, saved in {run}' in rest
    assert [r['step'] for r in read_log(run) if 'loss' in r] == list(range(1, step + 1))
    if number == signal.SIGTERM: assert finish(start(run))[-1].split()[2] == whole[1]

# A full disk: once by the limit on file sizes, which needs no rights, once on a really full file system

def bits(tree) -> list[bytes]: return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]

class SmallFiles:
    "From a step on, no file may grow beyond 2 kB"
    def __init__(self, step): self.step, self.hard = step, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    def before_save(self, learner, step):
        if step >= self.step: resource.setrlimit(resource.RLIMIT_FSIZE, (2048, self.hard))
    def lift(self): resource.setrlimit(resource.RLIMIT_FSIZE, (self.hard, self.hard))

def test_full_disk_keeps_earlier_checkpoints_and_goes_on(tmp_path, whole):
    limit = SmallFiles(8)
    learner = pretrain(toy_config(), tmp_path/'run', callbacks=[limit])
    learner.callbacks = [c for c in learner.callbacks if type(c).__name__ != 'Log']   # the log is a file, too
    try:
        with pytest.raises(CheckpointError, match='no space left on the disk.*Earlier checkpoints are intact: steps \\[4'): learner.fit()
    finally: limit.lift()
    assert 4 in saved_steps(tmp_path/'run') and not unfinished(tmp_path/'run')
    learner.callbacks.remove(limit)
    learner.fit()
    assert bits(learner.state) == bits(pretrain(toy_config(), whole[0]).state)

def test_really_full_file_system(tmp_path):
    disk = tmp_path/'disk'; disk.mkdir()
    if os.geteuid() or subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', str(disk)], capture_output=True).returncode: pytest.skip('mounting a small disk needs rights that are not there')
    class Fill:
        def at_step(self, learner, step):
            if step == 6:
                learner.callbacks[-1].store.wait()   # the checkpoint of step 4 is complete
                with open(disk/'filler', 'wb', buffering=0) as f:
                    try:
                        while True: f.write(bytes(4096))
                    except OSError: pass
    try:
        fill = Fill()
        learner = pretrain(toy_config(), disk/'run', callbacks=[fill])
        with pytest.raises((CheckpointError, RunError)) as error: learner.fit()
        assert 'pace left' in str(error.value)
        assert saved_steps(disk/'run') == [4]
        (disk/'filler').unlink()
        learner.callbacks.remove(fill)
        learner.fit()
        assert learner.steps_done == 16 and saved_steps(disk/'run')[-1] == 16
        load(disk/'run')
    finally: subprocess.run(['umount', '-l', str(disk)])

# Damaged and foreign folders

def copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole[0], tmp_path/'run'))

def damage(folder):
    for p in folder.rglob('*'):
        if p.is_file(): p.write_bytes(p.read_bytes()[:len(p.read_bytes()) // 2])

def test_damaged_checkpoint_falls_back_and_the_run_goes_on(whole, tmp_path, capsys):
    run = copy(whole, tmp_path)
    last, before = saved_steps(run)[-1], saved_steps(run)[-2]
    damage(run/'checkpoints'/str(last))
    learner = pretrain(toy_config(), run)
    assert f'step {last} in {run}/checkpoints cannot be read' in capsys.readouterr().out
    assert learner.steps_done == before and list((run/'damaged').iterdir())
    learner.fit()
    assert rows(read_log(run)) == rows(read_log(whole[0])) and saved_steps(run)[-1] == last

def test_all_checkpoints_damaged_is_said(whole, tmp_path):
    run = copy(whole, tmp_path)
    damage(run/'checkpoints')
    with pytest.raises(CheckpointError, match='no checkpoint .* can be read'): pretrain(toy_config(), run)
    with pytest.raises(CheckpointError, match='no checkpoint .* can be read'): load(run)
    assert saved_steps(run) == saved_steps(whole[0])   # nothing was moved or deleted

def test_another_configuration_is_refused(whole, tmp_path):
    run = copy(whole, tmp_path)
    with pytest.raises(ConfigError, match=r"model.size: 'tiny' in the run, 'Ti' now(.|\n)*Pretrain.load"): pretrain(toy_config(**{'model.size': 'Ti', 'train.seed': 3}), run)
    (run/'config.yaml').unlink()
    with pytest.raises(ConfigError, match='no config.yaml'): pretrain(toy_config(), run)

def test_unusable_folders(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(RunError, match='cannot be made'): pretrain(toy_config(), tmp_path/'file')
    with pytest.raises(CheckpointError, match='no run folder'): load(tmp_path/'nowhere')

def test_data_that_changed_is_said(whole, tmp_path, capsys):
    run = copy(whole, tmp_path)
    for meta in run.glob('checkpoints/*/meta/metadata'): meta.write_text(json.dumps({**json.loads(meta.read_text()), 'digest': 'other'}))
    pretrain(toy_config(), run)
    assert 'the data has changed' in capsys.readouterr().out

def test_finished_run_stays_as_it_is(whole, tmp_path):
    run = copy(whole, tmp_path)
    learner = pretrain(toy_config(), run).fit()
    assert learner.steps_done == 16 and rows(read_log(run)) == rows(read_log(whole[0]))
    assert rows(learner.history) == rows(read_log(whole[0]))
