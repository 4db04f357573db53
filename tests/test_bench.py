"The collection of measurements: that it runs, and what it calls a regression; no time is asserted"
import copy, json, subprocess, sys
import pytest
from conftest import ROOT
import compare, run
from compare import changes, figures, targets_table

def collection(step=2.0, peak=1e11, memory=5e9, speed=1.2, spread=0.01):
    "Figures of two measurements, five repeats each"
    noisy = lambda x: [x * (1 + spread * d) for d in (-1, -0.5, 0, 0.5, 1)]
    pair = {'systems': {n: {'repeats': noisy(s), 'flops': 1e11, 'share_of_peak_own': 1e11 / s / peak, 'peak_bytes': 1e9} for n, s in (('ours, video', step), ('VideoMAE', step * speed))}, 'gemm_peak': peak, 'speed': {'ratio': speed, 'repeats': noisy(speed)}}
    one = {'step_seconds': step, 'step_seconds_repeats': noisy(step), 'step_flops': 1e11, 'mfu': 1e11 / step / peak, 'peak_flops_per_second': peak, 'peak_memory_bytes': memory, 'temporary_bytes': 2**30, 'compile_seconds': 15.0}
    return {'benches': {'step': {'result': one}, 'peers': {'result': {'pairs': {'video': pair}}}}}

def words(old, new): return {c.new.name: c.word for c in changes(old, new)}

def test_the_same_again_is_no_regression():
    assert set(words(collection(), collection(step=2.01)).values()) == {'same'}

def test_slower_larger_and_behind_the_peer_are_regressions():
    found = words(collection(), collection(step=2.6, memory=6e9, speed=1.0))
    for name in (f'{compare.STEP}: step', f'{compare.STEP}: share of peak', f'{compare.STEP}: peak memory', 'video, batch 2: x VideoMAE'): assert found[name] == 'WORSE', (name, found)
    assert set(words(collection(step=2.6, memory=6e9, speed=1.0), collection()).values()) >= {'better'}

def test_a_slower_machine_is_no_slower_code():
    "Everything takes 1.3 times longer, the matrix product too"
    assert 'WORSE' not in words(collection(), collection(step=2.6, peak=1e11 / 1.3)).values()

def test_noise_widens_the_interval():
    assert words(collection(spread=0.3), collection(step=2.3, spread=0.3))[f'{compare.STEP}: step'] == 'same'
    assert words(collection(spread=0.001), collection(step=2.3, spread=0.001))[f'{compare.STEP}: step'] == 'WORSE'

def test_targets_say_met_missed_or_not_measured():
    rows = {line.split(None, 1)[0] + line[-25:]: line for line in targets_table(collection(memory=6e9)).splitlines()}
    assert len(rows) == len(compare.TARGETS)
    line = lambda end: next(r for r in rows.values() if r.endswith(end))
    assert line('peak memory').startswith('MISSED') and line('x VideoMAE').startswith('met') and line('x ViTMAE').startswith('not measured')
    names = set(figures(collection()))
    assert {t.figure for t in compare.TARGETS[:4]} <= names

def test_failed_measurements_are_left_out():
    broken = collection()
    broken['benches']['peers'] = {'error': 'no environment'}
    assert not any('VideoMAE' in n for n in figures(broken)) and figures(broken)

def test_table_for_the_front_page():
    "A row a target; what was not measured says so; machine and repeats stand beside the figures"
    lines = compare.readme_table({**collection(), 'machine': {'processor': 'a processor', 'cores': 2, 'jax': '0', 'date': '2026-01-02 03:04'}}).splitlines()
    rows = {l.split(' | ')[0].removeprefix('| '): l for l in lines[2:]}
    assert len(rows) == 2 + len(compare.TARGETS) and 'a processor, 2 cores' in lines[0] and '2026-01-02' in lines[0]
    assert '1.2 x (1.19 to 1.21) | at least 1 | met' in rows['video, batch 2: x VideoMAE'] and rows[f'{compare.STEP}: share of peak'].endswith('missed |')
    assert rows['audio, batch 2: x ViTMAE'].endswith('not measured |')

def test_compare_refuses_other_files(tmp_path):
    (tmp_path / 'a.json').write_text('{}')
    for name in ('a.json', 'b.json'):
        with pytest.raises(SystemExit, match=name): compare.read(tmp_path / name)

@pytest.mark.parametrize('script', ['run', 'compare', 'peers', 'finetune_step', 'scaling', 'attention', 'loader', 'decoding', 'parts', 'pretrain_step'])
def test_help(script):
    done = subprocess.run([sys.executable, ROOT / 'bench' / f'{script}.py', '--help'], capture_output=True, text=True)
    assert done.returncode == 0 and f'python bench/{script}.py' in done.stdout

def test_collection_runs_and_compares_with_itself(tmp_path, capsys):
    out = tmp_path / 'new.json'
    assert run.main(['--fast', '--out', str(out)]) == 0, capsys.readouterr().out
    found = json.loads(out.read_text())
    assert set(found['benches']) == {'tiny', 'scaling'} and not [b['error'] for b in found['benches'].values() if 'error' in b]
    assert out.with_suffix('.png').stat().st_size > 5000
    assert run.main(['--table', '--out', str(out), '--compare', str(out)]) == 0 and 'same' in capsys.readouterr().out
    worse = copy.deepcopy(found)
    worse['benches']['tiny']['result']['temporary_bytes'] *= 2
    out.write_text(json.dumps(worse))
    (tmp_path / 'old.json').write_text(json.dumps(found))
    assert run.main(['--table', '--out', str(out), '--compare', str(tmp_path / 'old.json')]) == 1 and 'WORSE' in capsys.readouterr().out

def test_pairs_do_the_same_work():
    "Hidden patches of both, and FLOPs that differ by what the peer does on top"
    from avmae_nb.model.flops import step_flops
    import peers
    for kind, hidden in (('video', 1411), ('audio', 320)):
        c = peers.configuration(kind, 2)
        assert peers.hidden(c) == hidden and 1 < peers.peer_flops(c) / step_flops(c) < 1.1

def test_textbook_attention_only_inside():
    from avmae_nb.model import recompute, transformer
    import finetune_step
    own, kept = transformer.attention, dict(recompute.KEPT_ON_CPU)
    with finetune_step.textbook(): assert transformer.attention is transformer.plain_attention and recompute.KEPT_ON_CPU != kept
    assert transformer.attention is own and recompute.KEPT_ON_CPU == kept
