"""Our pre-training step beside Hugging Face's VideoMAE and ViTMAE in PyTorch, on this machine's CPU, one step of each in turn.

    python bench/peers.py --install                 # once: torch and transformers in .cache/peers-venv, 1.1 GB; the project itself never depends on them
    python bench/peers.py --out bench/peers.json    # video and audio, 7 rounds
    python bench/peers.py --only video --rounds 5

Both sides of a pair: ViT-B, float32, batch 2, noise as input, random masks that differ between clips, mean squared error of the hidden patches' raw values, Adam with decay on matrices.
Video: 16 frames of 224 x 224, tubelets of 2 x 16 x 16, 0.9 hidden. Audio: 400 patches of 16 x 16, 0.8 hidden. Decoders on both sides: 4 layers, 384 wide, 6 heads, MLP 1536 (VideoMAE's own size;
ViTMAE is set to it). What differs is left as each ships: VideoMAE and ViTMAE use the exact GELU and run their whole last decoder layer, and VideoMAE embeds all patches before it drops the hidden ones.
Each system is a process of its own that does a step when told to, all in one thread a core. Shares of peak are those of the fastest float32 matrix product seen in the same run, by either library,
for the FLOPs that a system really does (`own`) and for those that the method needs at least, ours (`needed`: the same for both, so it ranks them).
"""
import argparse, json, os, statistics, subprocess, sys, time, venv
from pathlib import Path
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from timing import ROOT, cores, interleaved, machine, ratio, resident, summary
VENV = ROOT / '.cache' / 'peers-venv'
PACKAGES = ['torch==2.13.0+cpu', 'transformers==4.57.6', 'numpy']
PAIRS = {'video': ('ours, video', 'VideoMAE'), 'audio': ('ours, audio', 'ViTMAE')}
KINDS = {'ours, video': 'video', 'VideoMAE': 'video', 'ours, audio': 'audio', 'ViTMAE': 'audio'}
RATIOS = {'video': 0.9, 'audio': 0.8}

def python() -> Path: return VENV / ('Scripts/python.exe' if os.name == 'nt' else 'bin/python')

def install(packages):
    "An environment for the peers, beside the project's own"
    venv.create(VENV, with_pip=True)
    for wanted in (packages, [p.removesuffix('+cpu') for p in packages]):   # where the index has no build for CPUs alone, the one that has all (several GB)
        if subprocess.run([python(), '-m', 'pip', 'install', *wanted]).returncode == 0: return
    sys.exit(f'the peers could not be installed in {VENV}: give versions that your index has with --packages')

def configuration(kind: str, batch: int):
    "Ours, without the other modality"
    from avmae_nb.config import preset
    return preset('vggsound').replace(**{'audio' if kind == 'video' else 'video': None, f'{kind}.mask.ratio': RATIOS[kind], 'train.batch': batch})

def hidden(c) -> int:
    "Hidden patches of a clip"
    (kind, m), = c.modalities.items()
    return int(c.masks[kind].ratio * m.tokens)

def peer_flops(c) -> int:
    "FLOPs of the peer's step: all patches embedded by VideoMAE and by ViTMAE, all tokens in every layer, the head for hidden patches (ViTMAE: for all, and a token more)"
    from avmae_nb.model.flops import stack_flops
    (kind, m), = c.modalities.items()
    wide, narrow, extra = c.model.encoder_layers, c.model.decoder_layers, int(kind == 'audio')
    visible, tokens = m.tokens - hidden(c) + extra, m.tokens + extra
    embedding = 2 * m.tokens * m.values * wide.width
    rest = stack_flops(visible, visible, wide, wide.layers) + 2 * visible * wide.width * narrow.width + stack_flops(tokens, tokens, narrow, narrow.layers)
    head = 2 * (tokens if extra else hidden(c)) * narrow.width * m.values
    return (2 * embedding + 3 * (rest + head)) * c.train.batch

def serve_ours(kind: str, batch: int):
    "Our system: says what it is, then does what each line asks for"
    os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
    import jax
    from avmae_nb import devices
    from pretrain_step import learner_of, random_batch
    c = configuration(kind, batch)
    learner, batch, say = learner_of(c), random_batch(c), lambda **what: print(json.dumps({**what, **resident()}), flush=True)
    say(parameters=sum(x.size for x in jax.tree.leaves(learner.state.params)), machine=machine(), threads=cores())
    for line in sys.stdin:
        if line.strip() == 'gemm': say(flops=devices.gemm_peak()); continue
        begin, cpu = time.perf_counter(), time.process_time()
        loss = float(learner.step(batch)['loss'])
        say(seconds=time.perf_counter() - begin, cpu=time.process_time() - cpu, loss=loss)

class System:
    "A process that does one step when asked"
    def __init__(self, name: str, batch: int):
        kind, ours = KINDS[name], name.startswith('ours')
        self.name, self.config, self.told = name, configuration(kind, batch), []
        command = [sys.executable, __file__, '--serve', kind, '--batch', batch] if ours else [python(), HERE / 'peers_torch.py', kind, batch, hidden(self.config)]
        own = {k: v for k, v in os.environ.items() if k not in ('NPROC', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'XLA_FLAGS')}   # all cores for everyone
        self.process = subprocess.Popen([str(a) for a in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=own)
        self.about = self._answer()
    def _answer(self) -> dict:
        while True:
            line = self.process.stdout.readline()
            if not line: sys.exit(f'{self.name} ended with status {self.process.wait()}: its message is above')
            if line.startswith('{'): return json.loads(line)
    def ask(self, what: str) -> dict:
        self.process.stdin.write(what + '\n'); self.process.stdin.flush()
        return self._answer()
    def step(self) -> float:
        self.told.append(self.ask('step'))
        return self.told[-1]['seconds']
    def close(self):
        self.process.stdin.close()
        self.process.wait()

def measure(kind: str, rounds: int, batch: int) -> dict:
    "One pair"
    from avmae_nb.model.flops import step_flops
    systems, peaks = {name: System(name, batch) for name in PAIRS[kind]}, []
    def turn(s): peaks.append(s.ask('gemm')['flops']); return s.step()
    times = interleaved({n: (lambda s=s: turn(s)) for n, s in systems.items()}, rounds)
    for s in systems.values(): s.close()
    ours, peer = PAIRS[kind]
    c, peak = systems[ours].config, max(peaks)
    own, found = {ours: step_flops(c), peer: peer_flops(c)}, {n: summary(t) for n, t in times.items()}
    rows = {n: {**found[n], 'clips_per_second': batch / found[n]['seconds'], 'cpu_seconds': statistics.median([t['cpu'] for t in s.told[-rounds:]]), 'peak_bytes': s.told[-1]['peak_bytes'],
                'bytes_now': s.told[-1]['bytes_now'], 'flops': own[n], 'share_of_peak_own': own[n] / found[n]['seconds'] / peak, 'share_of_peak_needed': own[ours] / found[n]['seconds'] / peak,
                'parameters': s.about['parameters'], 'threads': s.about['threads'], 'last_loss': s.told[-1]['loss'], 'machine': s.about['machine']} for n, s in systems.items()}
    return {'configuration': f'ViT-B, {kind}, batch {batch}, {hidden(c)} of {next(iter(c.modalities.values())).tokens} patches hidden', 'gemm_peak': peak, 'gemm_peaks': peaks, 'systems': rows,
            'speed': ratio(times[peer], times[ours])}

def table(found: dict) -> str:
    "For a reader"
    out = []
    for kind, f in found['pairs'].items():
        out.append(f'{f["configuration"]}; peak {f["gemm_peak"] / 1e9:.0f} GFLOP/s')
        for n, s in f['systems'].items():
            out.append(f'  {n:<12} {s["seconds"]:6.2f} s a step ({s["interval"][0]:.2f} to {s["interval"][1]:.2f}), {s["cpu_seconds"]:5.1f} CPU s, {s["flops"] / 1e9:4.0f} GFLOP, {s["share_of_peak_own"]:4.0%} of peak'
                       f' ({s["share_of_peak_needed"]:.0%} of what is needed), peak memory {s["peak_bytes"] / 1e9:.2f} GB, {s["parameters"] / 1e6:.1f} M parameters')
        r = f['speed']
        out.append(f'  ours is {r["ratio"]:.2f}x the peer ({r["interval"][0]:.2f} to {r["interval"][1]:.2f})')
    return '\n'.join(out)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--install', action='store_true', help='make the environment of the peers, then stop')
    p.add_argument('--packages', nargs='+', default=PACKAGES)
    p.add_argument('--only', nargs='+', choices=list(PAIRS), default=list(PAIRS))
    p.add_argument('--rounds', type=int, default=7); p.add_argument('--batch', type=int, default=2)
    p.add_argument('--out', type=Path, help='JSON file')
    p.add_argument('--serve', choices=list(PAIRS), help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.install: return install(args.packages)
    if args.serve: return serve_ours(args.serve, args.batch)
    if not python().exists(): sys.exit(f'no environment {VENV}: python bench/peers.py --install')
    found = {'bench': 'peers', 'machine': machine(), 'rounds': args.rounds, 'pairs': {kind: measure(kind, args.rounds, args.batch) for kind in args.only}}
    print(table(found))
    if args.out: args.out.write_text(json.dumps(found, indent=1) + '\n')

if __name__ == '__main__': main()
