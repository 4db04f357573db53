"""Kill a run again and again at random moments, start it again, and see that nothing is lost.

    python bench/chaos.py --kills 120 --out bench/chaos_one.json                # one process
    python bench/chaos.py --kills 40 --workers 1 --out bench/chaos_workers.json # with a data worker, which is killed alone, too
    python bench/chaos.py --kills 40 --processes 2 --out bench/chaos_two.json   # two processes that train one run together

Each attempt is a fork of a process that has imported everything and started nothing, so 200 starts take minutes. It is killed (SIGKILL; one in eight: SIGTERM) at a moment drawn from: any time since its start
(import, compilation, restoring), some steps on, while a checkpoint is half written, and while the run ends. After each kill, and at each start: the rows of the log are those of the uninterrupted run, none lost
or doubled; the run goes on from a complete checkpoint and its state there, and after every step, has the hash that the uninterrupted run had; no process is left over. Everything is drawn from --seed."""
import argparse, collections, hashlib, json, os, random, select, shutil, signal, sys, tempfile, time, traceback
from pathlib import Path
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]
from timing import free_port
STEPS, EVERY = 16, 4

def simulated(processes):
    "One device a process, and no thread of BLAS, which a fork would lose"
    for k, v in dict(JAX_PLATFORMS='cpu', OMP_NUM_THREADS=1, OPENBLAS_NUM_THREADS=1, NPROC=1 if processes == 1 else 4, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0,
                     JAX_COMPILATION_CACHE_DIR=ROOT / '.cache' / 'jax', NUMBA_CACHE_DIR=ROOT / '.cache' / 'numba').items(): os.environ.setdefault(k, str(v))

def state_hash(learner) -> str:
    import jax, numpy as np
    h = hashlib.blake2b(digest_size=8)
    for x in jax.tree.leaves(learner.state): h.update(np.asarray(x).tobytes())
    return h.hexdigest()

class Tell:
    "Says each step and the state's hash into a pipe"
    shows_progress = True
    def __init__(self, out): self.out = out
    def say(self, *words): os.write(self.out, (' '.join(map(str, words)) + '\n').encode())
    def at_step(self, learner, step): self.say('step', step, state_hash(learner))

def train(run, args, out: int, rank: int, port: int):
    "What each fork does"
    from toys import toy_config
    from avmae_nb.devices import join
    from avmae_nb.train.pretrain import pretrain
    if args.processes > 1: join(f'127.0.0.1:{port},{args.processes},{rank}')
    tell = Tell(out)
    learner = pretrain(toy_config(**{'data.workers': args.workers}), run, callbacks=[tell])
    tell.say('ready', learner.steps_done, state_hash(learner) if learner.steps_done else '-')
    learner.fit()
    tell.say('end', learner.steps_done, state_hash(learner))

class Attempt:
    "One start of the run: a process group of one or two processes, and what they said"
    def __init__(self, run, args):
        port = free_port()
        self.pipe, ours = os.pipe()
        self.pids, self.lines, self.rest, self.codes, self.began = [], [], b'', {}, time.monotonic()
        for rank in range(args.processes):
            pid = os.fork()
            if not pid: self.child(run, args, ours if rank == 0 else os.open(os.devnull, os.O_WRONLY), rank, port)
            self.pids.append(pid)
        os.close(ours)
    def child(self, run, args, out, rank, port):
        os.setpgid(0, 0); os.close(self.pipe)
        log = os.open(f'{run}.out', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1); os.dup2(log, 2)
        code = 1
        try: train(run, args, out, rank, port); code = 0
        except SystemExit as e: code = e.code
        except BaseException: traceback.print_exc()
        finally:
            sys.stdout.flush(); sys.stderr.flush()
            import multiprocessing.util
            multiprocessing.util._exit_function()
            os._exit(code or 0)
    def read(self, seconds: float) -> bool:
        "Take what comes within `seconds`; false at the end of the pipe"
        if not select.select([self.pipe], [], [], max(0, seconds))[0]: return True
        data = os.read(self.pipe, 65536)
        *whole, self.rest = (self.rest + data).split(b'\n')
        self.lines += [w.decode().split() for w in whole]
        return bool(data)
    def until(self, test, seconds: float) -> bool:
        "Whether `test()` became true within `seconds`, while the run is alive"
        end = time.monotonic() + seconds
        while not test():
            if time.monotonic() > end or not self.read(min(0.01, end - time.monotonic())): return test()
        return True
    @property
    def step(self) -> int: return next((int(w[1]) for w in reversed(self.lines)), -1)
    def said(self, word): return any(w[0] == word for w in self.lines)
    def reap(self, seconds=60.0):
        "Wait for all; what does not end is killed and counted as hung"
        end, hung = time.monotonic() + seconds, 0
        while len(self.codes) < len(self.pids):
            for pid in set(self.pids) - set(self.codes):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done: self.codes[pid] = os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                hung += 1; self.kill(signal.SIGKILL, group=True); end = time.monotonic() + 30
            self.read(0.01)
        while self.read(0.0) and select.select([self.pipe], [], [], 0)[0]: pass
        return hung
    def kill(self, number, group: bool, which=None):
        for pid in self.pids if which is None else [self.pids[which]]:
            try: (os.killpg if group else os.kill)(pid, number)
            except ProcessLookupError: pass
    def leftover(self, seconds=20.0) -> int:
        "Processes of the groups that are still there after a while"
        end = time.monotonic() + seconds
        while True:
            left = [g for g in self.pids if group_alive(g)]
            if not left or time.monotonic() > end: break
            time.sleep(0.05)
        for g in left: os.killpg(g, signal.SIGKILL)
        os.close(self.pipe)
        return len(left)

def group_alive(group: int) -> bool:
    try: os.killpg(group, 0)
    except ProcessLookupError: return False
    return True

def workers_of(group: int) -> list[int]:
    "Other processes of a group: data workers"
    found = []
    for p in Path('/proc').iterdir():
        if p.name.isdigit() and int(p.name) != group:
            try: fields = (p / 'stat').read_text().rpartition(')')[2].split()
            except OSError: continue
            if int(fields[2]) == group and fields[0] != 'Z' and b'spawn_main' in (p / 'cmdline').read_bytes(): found.append(int(p.name))
    return found

def half_written(run) -> bool:
    folder = Path(run) / 'checkpoints'
    return folder.exists() and any('orbax-checkpoint-tmp' in p.name for p in folder.iterdir())

class Chaos:
    "Counts, and what the uninterrupted run was"
    def __init__(self, args, folder: Path):
        self.args, self.folder, self.random = args, folder, random.Random(args.seed)
        self.counts, self.wrong, self.grace, self.starts = collections.Counter(), [], [], []
        self.reference, self.rows = {}, []
    def log(self, run):
        from avmae_nb.train.callbacks import read_log
        from toys import rows
        return rows(read_log(run))
    def complaint(self, text): self.wrong.append(text); print('WRONG:', text, flush=True)
    def uninterrupted(self):
        "Twice: hashes and rows must be the same from run to run"
        for name in ('first', 'again'):
            a = Attempt(self.folder / name, self.args)
            a.until(lambda: a.said('end'), 300); a.reap(); a.leftover()
            if not a.said('end'): sys.exit(f'the uninterrupted run failed:\n{(self.folder / f"{name}.out").read_text()[-3000:]}')
            self.starts.append(next(k for k, w in enumerate(a.lines) if w[0] == 'ready'))
            found = {int(w[1]): w[2] for w in a.lines if w[0] != 'ready'}
            if self.reference and found != self.reference: sys.exit('two uninterrupted runs differ: nothing can be compared')
            self.reference, self.rows = found, self.log(self.folder / name)
    def check_words(self, a: Attempt, complete: list[int]):
        "What an attempt said agrees with the uninterrupted run"
        for word, step, *rest in a.lines:
            if int(step) and rest and rest[0] != self.reference[int(step)]: self.complaint(f'{word} {step}: the state is not that of the uninterrupted run')
            if word == 'ready' and int(step) not in (complete or [0]): self.complaint(f'went on from step {step}, complete were {complete}')
            if word == 'ready' and int(step) != max(complete, default=0): self.complaint(f'went on from step {step} though {max(complete)} was complete')
    def check_log(self, run):
        "The log's rows are the first ones of the uninterrupted run, and reach the newest checkpoint"
        from avmae_nb.train.checkpoint import saved_steps
        found, last = self.log(run), max(saved_steps(run), default=0)
        if found != self.rows[:len(found)]: self.complaint(f'{run}: a row of the log is lost, doubled or different')
        if len([r for r in found if r['step'] <= last and 'loss' in r]) < last: self.complaint(f'{run}: rows before the checkpoint of step {last} are not in the log')
    def strike(self, a: Attempt, run):
        "Wait for the moment, then kill"
        r, kinds = self.random, ['time', 'step', 'step', 'save', 'save', 'end'] + ['worker'] * bool(self.args.workers)
        kind = r.choice(kinds)
        if kind == 'time': a.until(lambda: False, r.uniform(0, self.args.start))
        else:
            if not a.until(lambda: a.said('ready'), 120): return self.counts.update(['over before the kill'])
            first = a.step
            if kind == 'step': a.until(lambda: a.step >= min(STEPS, first + r.randint(0, 7)), 60); a.until(lambda: False, r.uniform(0, 0.1))
            if kind == 'save': a.until(lambda: half_written(run) or a.said('end'), 60); a.until(lambda: False, r.choice([0, 0, r.uniform(0, 0.02)]))
            if kind == 'end': a.until(lambda: a.step >= STEPS, 60); a.until(lambda: False, r.uniform(0, 0.3))
            if kind == 'worker': a.until(lambda: a.step > first, 60); return self.strike_worker(a)
        self.finish(a, run, kind)
    def strike_worker(self, a):
        "A data worker alone: the run goes on by itself"
        victims = workers_of(a.pids[0])
        if not victims: return self.counts.update(['over before the kill'])
        os.kill(self.random.choice(victims), signal.SIGKILL)
        self.counts.update(['kill', 'data worker alone'])
        if not a.until(lambda: a.said('end'), 120): self.complaint('the run did not go on after its data worker was killed')
        a.reap()
    def finish(self, a, run, kind):
        term = self.random.random() < 0.125
        running, over, half = a.said('ready') and a.step < STEPS, a.said('end'), half_written(run)
        if over: self.counts.update(['over before the kill']); return a.reap()
        if term: began = time.monotonic(); a.kill(signal.SIGTERM, group=True)
        else: a.kill(signal.SIGKILL, group=self.random.random() < 0.5, which=self.random.choice([None, 0, 1]) if self.args.processes > 1 else None)
        if self.args.processes > 1 and not term: a.until(lambda: False, self.random.uniform(0, 0.5)); a.kill(signal.SIGKILL, group=True)   # the rest of a job follows
        self.counts.update(['SIGTERM' if term else 'kill', f'{kind}', *['half-written checkpoint there'] * half, *['before the first step'] * (not a.said('ready'))])
        hung = a.reap()
        if hung: self.complaint('a process did not end')
        if term and running and 143 in a.codes.values():
            from avmae_nb.train.checkpoint import saved_steps
            self.grace.append(round(time.monotonic() - began, 2))
            if max(saved_steps(run), default=0) < a.step: self.complaint(f'SIGTERM after step {a.step}, saved are {saved_steps(run)}')
    def one_run(self, number: int):
        "A run from nothing to its end, killed on the way"
        from avmae_nb.train.checkpoint import saved_steps
        run, kills = self.folder / f'run{number}', self.random.randint(4, 12)
        for attempt in range(kills + 1):
            complete = saved_steps(run)
            a = Attempt(run, self.args)
            if attempt < kills and self.done < self.args.kills: self.strike(a, run)
            else: a.until(lambda: a.said('end'), 300); a.reap()
            if a.leftover(): self.complaint('processes were left over')
            self.check_words(a, complete); self.check_log(run)
            print(f'run {number}, start {attempt}: from {complete[-1] if complete else 0} to {a.step}, {self.done} kills, {len(self.wrong)} wrong', flush=True)
            if a.said('end') or len(self.wrong) > 20: break
        self.counts.update(['run'])
        self.check_whole(run)
        shutil.rmtree(run, ignore_errors=True)
    def check_whole(self, run):
        from avmae_nb.train.checkpoint import saved_steps
        if self.log(run) != self.rows: self.complaint(f'{run}: its log is not that of the uninterrupted run:\n{Path(f"{run}.out").read_text()[-2000:]}')
        if saved_steps(run) != saved_steps(self.folder / 'again') or half_written(run): self.complaint(f'{run}: other checkpoints than those of the uninterrupted run')
    @property
    def done(self): return self.counts['kill'] + self.counts['SIGTERM']
    def report(self, seconds) -> dict:
        return {'processes': self.args.processes, 'workers': self.args.workers, 'seed': self.args.seed, 'seconds': round(seconds), 'kills': self.done, 'counts': dict(sorted(self.counts.items())),
                'wrong': self.wrong, 'SIGTERM to exit, seconds': {'n': len(self.grace), 'most': max(self.grace, default=None)}}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--kills', type=int, default=20); p.add_argument('--processes', type=int, default=1); p.add_argument('--workers', type=int, default=0)
    p.add_argument('--start', type=float, default=6.0, help='seconds of a start, over which moments are drawn'); p.add_argument('--seed', type=int, default=0); p.add_argument('--out', type=Path)
    args, began = p.parse_args(), time.monotonic()
    simulated(args.processes)
    import av, grain, orbax.checkpoint, toys, avmae_nb.train.pretrain, avmae_nb.train.probing   # once, for all forks
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        chaos = Chaos(args, Path(folder))
        chaos.uninterrupted()
        number = 0
        while chaos.done < args.kills and len(chaos.wrong) <= 20:
            number += 1; chaos.one_run(number)
            if args.out: args.out.write_text(json.dumps(chaos.report(time.monotonic() - began), indent=1) + '\n')
    print(json.dumps(chaos.report(time.monotonic() - began), indent=1))
    return bool(chaos.wrong)

if __name__ == '__main__': sys.exit(main())
