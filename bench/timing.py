"""What the measurements share: rounds in which systems take turns, ratios with an interval, what machine it was, and simulated devices (tests too). Standard library only: other environments import it."""
import os, platform, random, socket, statistics, subprocess, sys, time
from pathlib import Path
ROOT = Path(__file__).resolve().parents[1]

def interleaved(systems: dict, rounds: int, again: int = 1) -> dict[str, list[float]]:   # name: function that does one step and waits for it
    "Seconds of each step, the systems taking turns, in the opposite order every other round; `again` steps of each first that do not count"
    times = {name: [] for name in systems}
    for k in range(-again, rounds):
        for name in list(systems)[::-1 if k % 2 else 1]:
            begin = time.perf_counter()
            told = systems[name]()
            if k >= 0: times[name].append(told if isinstance(told, float) else time.perf_counter() - begin)
    return times

def bootstrap(draw, draws: int) -> list[float]:   # draw: a value of some resampled data, from the random numbers it is given
    "Percentile interval, 95%"
    rng = random.Random(0)
    found = sorted(draw(rng) for _ in range(draws))
    return [found[int(0.025 * draws)], found[int(0.975 * draws) - 1]]

def resampled(values, rng) -> float:
    "Median of as many values, drawn again"
    return statistics.median(rng.choices(values, k=len(values)))

def interval(values: list[float]) -> list[float]:
    "Of the median"
    return bootstrap(lambda rng: resampled(values, rng), 1000)

def summary(seconds: list[float]) -> dict:
    "Median, its interval, and all the repeats"
    return {'seconds': statistics.median(seconds), 'interval': interval(seconds), 'repeats': seconds}

def ratio(slow: list[float], fast: list[float]) -> dict:
    "How many times longer `slow` takes: the median over rounds, in each of which both ran"
    each = [a / b for a, b in zip(slow, fast)]
    return {'ratio': statistics.median(each), 'interval': interval(each), 'repeats': each}

def resident() -> dict[str, int]:
    "Bytes of memory of this process at its highest, and now"
    import resource
    now = 0
    try: now = int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    except OSError: pass
    return {'peak_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024), 'bytes_now': now}

def cores() -> int:
    "That this process may use"
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()

def simulated(devices: int) -> dict[str, str]:
    "Environment for so many devices on this CPU. NPROC is the size of XLA's thread pool: a collective blocks a thread, and with fewer threads than collectives under way all devices wait for ever"
    flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={devices}'.strip()
    return {'XLA_FLAGS': flags, **({'NPROC': str(4 * devices)} if devices > 1 else {})}

def free_port() -> int:
    "Of this machine, for a moment"
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

def _processor() -> str:
    try: return next(l.split(':')[1].strip() for l in Path('/proc/cpuinfo').read_text().splitlines() if l.startswith('model name'))
    except (OSError, StopIteration): return platform.processor() or platform.machine()

def machine() -> dict:
    "Processor, cores, load, versions, commit, date"
    from importlib.metadata import PackageNotFoundError, version
    found = {'processor': _processor(), 'cores': cores(), 'load': list(os.getloadavg()) if hasattr(os, 'getloadavg') else None,
             'system': platform.system(), 'python': platform.python_version(), 'date': time.strftime('%Y-%m-%d %H:%M')}
    for package in ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'torch', 'transformers'):
        try: found[package] = version(package)
        except PackageNotFoundError: pass
    git = subprocess.run(['git', 'describe', '--always', '--dirty'], cwd=ROOT, capture_output=True, text=True)
    return {**found, 'commit': git.stdout.strip() if git.returncode == 0 else None}
