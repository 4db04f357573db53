"The same numbers on one device and on eight, however the mesh is shaped; two processes; errors that say how to mend it"
import json, os, subprocess, sys
import jax, numpy as np, pytest
from avmae_nb import devices
from conftest import free_port, simulated
from toys import toy_config, toy_tuning
from avmae_nb.config import ConfigError
from avmae_nb.data.sources import open_source
from avmae_nb.train.finetune import build_classifier
from avmae_nb.train.predictions import predict

TRAIN = '''
import sys, json, jax, numpy as np
sys.path.insert(0, "tests")
from toys import toy_config
from avmae_nb.train.pretrain import pretrain
config = toy_config(**{"train.steps": 4, "train.eval_every": 4, "optim.warmup_epochs": 0.0, "train.fsdp": FSDP, "optim.accumulate": ACCUMULATE, "optim.clip_norm": 1.0})
learner = pretrain(config).fit()
kernel = jax.tree.leaves(learner.state.params)
print(json.dumps(dict(devices=jax.device_count(), mesh=dict(learner.mesh.shape), sharded=sum(not x.sharding.is_fully_replicated for x in kernel),
    losses=[r["loss"] for r in learner.history if "loss" in r], eval=learner.history[-1]["eval/loss"], weight=float(sum(abs(np.asarray(x)).sum() for x in kernel)))))
'''

def train(run_python, count, fsdp=1, accumulate=1):
    return json.loads(run_python(TRAIN.replace('FSDP', str(fsdp)).replace('ACCUMULATE', str(accumulate)), devices=count).splitlines()[-1])

@pytest.fixture(scope='module')
def one(run_python): return train(run_python, 1)

@pytest.mark.parametrize('fsdp, mesh, accumulate', [(1, (8, 1), 1), (2, (4, 2), 1), (8, (1, 8), 1), (2, (2, 2), 2)])
def test_same_losses_on_simulated_devices(run_python, one, fsdp, mesh, accumulate):
    many = train(run_python, mesh[0] * mesh[1], fsdp, accumulate)
    assert tuple(many['mesh'].values()) == mesh and (many['sharded'] > 0) == (fsdp > 1)
    np.testing.assert_allclose(many['losses'], one['losses'], rtol=1e-5)   # the order of sums differs, nothing else
    np.testing.assert_allclose([many['eval'], many['weight']], [one['eval'], one['weight']], rtol=1e-5)

CHECKPOINT = '''
import sys, jax, numpy as np
sys.path.insert(0, "tests")
from toys import rows, toy_config
from avmae_nb.train.pretrain import pretrain
class Stop:
    def at_step(self, learner, step):
        if step == STOP: raise KeyboardInterrupt
learner = pretrain(toy_config(**{"train.fsdp": FSDP}), "RUN", callbacks=[Stop()]).fit()
print("at", learner.steps_done, learner.history[-1])
'''

def test_a_run_moves_between_meshes(run_python, tmp_path):
    code = CHECKPOINT.replace('RUN', str(tmp_path/'run'))
    assert 'at 6' in run_python(code.replace('STOP', '6').replace('FSDP', '2'), devices=4)
    assert 'at 16' in run_python(code.replace('STOP', '99').replace('FSDP', '1'), devices=1)

TWO = '''
import os, sys, json, jax
sys.path.insert(0, "tests")
from avmae_nb.devices import join
rank, _ = join(f"127.0.0.1:{sys.argv[2]},2,{sys.argv[1]}")
from toys import toy_config
from avmae_nb.train.pretrain import pretrain
learner = pretrain(toy_config(**{"train.steps": 4, "train.eval_every": 4, "optim.warmup_epochs": 0.0, "optim.clip_norm": 1.0}), sys.argv[3]).fit()
from test_devices import scored
print("RESULT", json.dumps(dict(rank=rank, devices=jax.device_count(), losses=[r["loss"] for r in learner.history if "loss" in r], scored=scored())), flush=True)
'''

KERNEL = '''
import json, jax, numpy as np
from jax.experimental.pallas import tpu as pltpu
from avmae_nb import devices
from avmae_nb.model.kernels import tpu_attention
from avmae_nb.model.recompute import compiling_for
from avmae_nb.model.transformer import plain_attention
mesh = devices.mesh(fsdp=2)
q, k, v = (jax.random.normal(key, (8, n, 2, 8)) for key, n in zip(jax.random.split(jax.random.key(0), 3), (140, 200, 200)))
valid = np.arange(200) < np.linspace(100, 200, 8).astype(int)[:, None]
f = lambda kernel: jax.jit(jax.value_and_grad(lambda q, k, v: (kernel(q, k, v, valid) ** 3).sum(), (0, 1, 2)))(*devices.shard_batch((q, k, v), mesh))
plain = f(plain_attention)
with compiling_for("tpu", mesh), pltpu.force_tpu_interpret_mode(): found = f(tpu_attention)
print(json.dumps([float(abs(np.asarray(a) - np.asarray(b)).max() / abs(np.asarray(b)).max()) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(plain))]))
'''

def test_the_kernel_of_a_tpu_works_on_each_devices_own_clips(run_python):
    "Eight devices, 2 x 4, in Pallas' interpreter: value and gradients of the textbook"
    assert max(json.loads(run_python(KERNEL, devices=8).splitlines()[-1])) < 1e-4

def scored() -> list:
    "Logits of 11 held-out clips in two views, by an untrained classifier whose head is not zero"
    c = toy_tuning()
    model = build_classifier(c)
    model.head.kernel[...] = jax.random.normal(jax.random.key(0), model.head.kernel.shape)
    return predict(model, open_source(c.data, 'eval'), c, 11, views=2).logits.tolist()

def test_two_processes_over_loopback(one, tmp_path):
    port = free_port()
    env = {**os.environ, **simulated(2)}
    both = [subprocess.Popen([sys.executable, '-c', TWO, str(r), str(port), str(tmp_path/'run')], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) for r in range(2)]
    try: texts = [p.communicate(timeout=600)[0] for p in both]
    finally: [p.kill() for p in both]
    assert not any(p.returncode for p in both), '\n'.join(t[-3000:] for t in texts)
    for t in texts:
        found = json.loads(next(l for l in t.splitlines() if l.startswith('RESULT'))[7:])
        assert found['devices'] == 4
        np.testing.assert_allclose(found['losses'], one['losses'], rtol=1e-5)
        np.testing.assert_allclose(found['scored'], scored(), atol=1e-5)
    assert len((tmp_path/'run'/'log.jsonl').read_text().splitlines()) == 5   # one process writes the log

def test_four_processes_from_the_terminal(one, tmp_path):
    "`--distributed HOST:PORT,N,K`: the losses of one process, written and spoken of by the first alone"
    toy_config(**{'train.steps': 4, 'train.eval_clips': 0, 'optim.warmup_epochs': 0.0, 'optim.clip_norm': 1.0}).save(tmp_path/'toy.yaml')
    port = free_port()
    command = [sys.executable, '-c', 'from avmae_nb.cli import main; raise SystemExit(main())', 'pretrain', '--config', str(tmp_path/'toy.yaml'), '--run', str(tmp_path/'run'), '--distributed']
    all_ = [subprocess.Popen([*command, f'127.0.0.1:{port},4,{k}'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for k in range(4)]
    try: texts = [p.communicate(timeout=600) for p in all_]
    finally: [p.kill() for p in all_]
    assert not any(p.returncode for p in all_), '\n'.join(e[-3000:] for _, e in texts)
    assert 'finished' in texts[0][0] and not any('step' in o for o, _ in texts[1:])
    rows = [json.loads(line) for line in (tmp_path/'run/log.jsonl').read_text().splitlines()]
    np.testing.assert_allclose([r['loss'] for r in rows if 'loss' in r], one['losses'], rtol=1e-5)
    versions = json.loads((tmp_path/'run/versions.json').read_text())
    assert versions['processes'] == versions['devices'] == 4

def test_batch_that_cannot_be_split(run_python):
    said = run_python('''
import sys; sys.path.insert(0, "tests")
from toys import toy_config
from avmae_nb.train.pretrain import pretrain
for changes in ({"train.batch": 6}, {"train.fsdp": 3}):
    try: pretrain(toy_config(**changes))
    except ValueError as e: print(e)
print(pretrain(toy_config(**{"train.batch": 6}), fast=True).mesh.size)   # a rehearsal uses as many devices as divide its batch
''', devices=4).splitlines()
    assert 'cannot be split over 4 devices' in said[0] and 'e.g. 8' in said[0]
    assert 'fsdp=3 does not divide the 4 devices' in said[1]
    assert said[2] == '3'

def test_an_accelerator_that_is_not_there_is_said():
    for kind, hint in ('tpu', 'jax\\[tpu\\]'), ('gpu', 'jax\\[cuda12\\]'):
        with pytest.raises(devices.DeviceError, match=hint): devices.require(kind)
    devices.require('cpu')
    with pytest.raises(ConfigError, match="did you mean 'gpu'"): devices.require('gpus')

def test_peaks_find_the_longest_name():
    class Device: platform = 'gpu'
    for kind, peak in {'NVIDIA H100 PCIe': 756, 'NVIDIA H100 80GB HBM3': 989, 'NVIDIA L4': 121, 'NVIDIA L40S': 362, 'TPU v5 lite': 197, 'TPU v5p': 459, 'Tesla T4': 65}.items():
        Device.device_kind = kind
        assert devices.peak_flops(Device)[0] == peak * 1e12
    Device.device_kind = 'Abacus'
    assert devices.peak_flops(Device)[0] is None
