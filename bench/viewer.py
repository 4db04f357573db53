"""Slider and stroke to painted pixels in headless Chromium, the model's own time apart; memory of page and kernel after many clips.

usage: python bench/viewer.py [--inputs tiny|full] [--lab] [--moves 60] [--clips 200] [--out bench/viewer.json]
       python bench/viewer.py --lab --minutes 60 --out bench/viewer_hour.json   left open, and used every half minute: does memory grow?

The page is served by `avmae_nb.view.page` (as `avmae view` does), or by JupyterLab with `--lab`. The model is untrained and small: what is measured is the viewer.
`full`: 16 frames of 224x224 and 8 s of sound, as for VGGSound. Goals: a frame 16 ms, a mask 100 ms beyond the model, a clip's data 300 ms."""
import argparse, json, os, statistics, sys, threading, time
from pathlib import Path
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / 'tests')]
from playwright.sync_api import sync_playwright
from soak import slope
from timing import free_port
from avmae_nb.config import Data, Model, Stack, preset
from avmae_nb.train.pretrain import build_model
from avmae_nb.view.page import serve
from avmae_nb.view.viewer import view

FLAGS = '--no-sandbox --disable-gpu --no-first-run --disable-background-networking --enable-precise-memory-info --autoplay-policy=no-user-gesture-required'.split()
MODEL = {'encoder': 'early', 'positions': 'sinusoidal', 'encoder_stack': Stack(48, 1, 3, 96), 'decoder_stack': Stack(48, 1, 3, 96)}
SMALL = {'model': Model(**MODEL), 'data': Data(clips=256)}
# from an event to the end of the frame that paints it
FRAME = """async () => { const s = document.querySelector('.avmae-frame'), t = performance.now(); s.value = (+s.value + 1) % (+s.max + 1); s.dispatchEvent(new Event('input'))
  await new Promise(r => requestAnimationFrame(() => setTimeout(r, 0))); return performance.now() - t }"""
DRAW = """() => { const s = document.querySelector('.avmae-frame'), t = performance.now(); s.value = (+s.value + 1) % (+s.max + 1); s.dispatchEvent(new Event('input')); return performance.now() - t }"""
ASKED = """async ([what, value]) => { const root = document.querySelector('.avmae'), before = +root.dataset.answers, t = performance.now()
  if (what === 'ratio') { const s = document.querySelector('[aria-label="video: share hidden"]'); s.value = value; s.dispatchEvent(new Event('input')) }
  if (what === 'clip') { const s = document.querySelector('.avmae-number[aria-label^=clip]'); s.value = value; s.dispatchEvent(new Event('change')) }
  if (what === 'stroke') { const c = document.querySelector('canvas[data-key="masked/audio"]'), b = c.getBoundingClientRect(), at = (k, x) => c.dispatchEvent(new PointerEvent(k, { clientX: b.left + x, clientY: b.top + 9, pointerId: 1, bubbles: true }))
    c.setPointerCapture = () => {}; document.querySelector(value % 2 ? 'input[value=reveal]' : 'input[value=hide]').click(); at('pointerdown', 9); at('pointermove', 60); at('pointerup', 60) }
  while (+root.dataset.answers === before) await new Promise(r => setTimeout(r, 1))
  await new Promise(r => requestAnimationFrame(() => setTimeout(r, 0))); return [performance.now() - t, +root.dataset.modelMs] }"""

def summary(values) -> dict:
    "Median and 95th percentile in milliseconds"
    v = sorted(values)
    return {'median': round(statistics.median(v), 1), 'p95': round(v[int(0.95 * (len(v) - 1))], 1), 'n': len(v)}

def beyond(pairs) -> dict:
    "Totals, the model's share, and the rest"
    return {'total': summary([t for t, _ in pairs]), 'model': summary([m for _, m in pairs]), 'beyond the model': summary([t - m for t, m in pairs])}

def resident(pid: int) -> float:
    "MB of a process, as the operating system counts them"
    return int(Path(f'/proc/{pid}/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6

def heap(page) -> float:
    "MB that the page's scripts hold after a collection"
    client = page.context.new_cdp_session(page); client.send('HeapProfiler.enable'); client.send('HeapProfiler.collectGarbage')
    return client.send('Runtime.getHeapUsage')['usedSize'] / 1e6 + client.send('Runtime.getHeapUsage').get('backingStorageSize', 0) / 1e6

def measure(page, args, pid: int) -> dict:
    "All figures of one open viewer"
    out = {'ready': float(page.evaluate("document.querySelector('.avmae').dataset.ready"))}
    for _ in range(3): page.evaluate(ASKED, ['ratio', 40 + _])
    out['frame slider'], out['of which drawing'] = summary([page.evaluate(FRAME) for _ in range(args.moves)]), summary([page.evaluate(DRAW) for _ in range(args.moves)])
    out['ratio slider'] = beyond([page.evaluate(ASKED, ['ratio', 5 + k % 90]) for k in range(args.moves)])
    out['stroke'] = beyond([page.evaluate(ASKED, ['stroke', k]) for k in range(args.moves)])
    clips, memory = [], {}
    for k in range(1, args.clips + 1):
        clips.append(page.evaluate(ASKED, ['clip', k]))
        if k in (max(1, args.clips // 10), args.clips // 2, args.clips): memory[k] = {'page': round(heap(page), 1), 'kernel': round(resident(pid), 1)}
    return {**out, 'another clip': beyond(clips), 'MB after clips': memory}

def left_open(page, minutes: float, pid: int, every: float = 30.0) -> dict:
    "Memory of page and kernel over an hour in which somebody plays now and then"
    start, rows, uses = time.monotonic(), [], 0
    while (now := time.monotonic() - start) < 60 * minutes:
        page.evaluate(ASKED, ['clip', uses % 256]); page.evaluate(ASKED, ['ratio', 5 + uses % 90]); page.evaluate(ASKED, ['stroke', uses]); page.evaluate(FRAME)
        uses += 4
        rows.append((now, heap(page), resident(pid)))
        time.sleep(max(0.0, every - (time.monotonic() - start - now)))
    at, *memory = zip(*rows)
    return {'minutes': minutes, 'uses': uses, **{name: slope(at, values) for name, values in zip(('page', 'kernel'), memory)}}

def served(page, config):
    "The viewer by this process's own server"
    server, address = serve(view(build_model(config), config))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page.goto(address); page.wait_for_selector('.avmae[data-ready]', timeout=120000)
    return os.getpid()

CELL = """import os; os.environ['JAX_PLATFORMS'] = 'cpu'
from avmae_nb.config import *
from avmae_nb.train.pretrain import build_model
from avmae_nb.view.viewer import view
config = {config}
viewer = view(build_model(config), config)
viewer"""

def in_lab(page, config, folder: Path):
    "The viewer in a notebook in JupyterLab; the kernel's process number"
    import nbformat, subprocess, urllib.request
    port = free_port()
    cells = [nbformat.v4.new_code_cell("import os; open('pid', 'w').write(str(os.getpid()))"), nbformat.v4.new_code_cell(CELL.format(config=repr(config)))]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={'kernelspec': {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}}), folder / 'view.ipynb')
    own = {f'JUPYTER_{n}_DIR': str(folder / n.lower()) for n in ('CONFIG', 'DATA', 'RUNTIME')}
    lab = subprocess.Popen([sys.executable, '-m', 'jupyter', 'lab', '--no-browser', '--allow-root', '--ip', '127.0.0.1', '--port', str(port), '--IdentityProvider.token=', '--ServerApp.password=', '--LabApp.expose_app_in_browser=True', f'--ServerApp.root_dir={folder}'],
                           env={**os.environ, **own}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(240):
        try: urllib.request.urlopen(f'http://127.0.0.1:{port}/api/status', timeout=1); break
        except OSError: time.sleep(0.25)
    page.goto(f'http://127.0.0.1:{port}/doc/tree/view.ipynb?reset')
    page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", timeout=120000)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')"); page.wait_for_selector('.avmae[data-ready]', timeout=240000)
    return int((folder / 'pid').read_text()), lab

def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--inputs', choices=('tiny', 'full'), default='tiny'); args.add_argument('--lab', action='store_true')
    args.add_argument('--moves', type=int, default=60); args.add_argument('--clips', type=int, default=200); args.add_argument('--minutes', type=float); args.add_argument('--out', type=Path)
    args = args.parse_args()
    config, lab = preset('tiny' if args.inputs == 'tiny' else 'vggsound').replace(**SMALL), None
    import shutil, tempfile
    with sync_playwright() as p, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page = p.chromium.launch(executable_path=shutil.which('chromium') or shutil.which('google-chrome'), args=FLAGS).new_page(viewport={'width': 1300, 'height': 1000})
        try:
            pid, lab = in_lab(page, config, Path(folder)) if args.lab else (served(page, config), None)
            out = {'inputs': args.inputs, 'by': 'JupyterLab' if args.lab else 'own server', 'load': round(os.getloadavg()[0], 1), 'cores': os.cpu_count(), **(left_open(page, args.minutes, pid) if args.minutes else measure(page, args, pid))}
        finally:
            if lab: lab.terminate(); lab.wait(20)
    print(json.dumps(out, indent=1))
    if args.out: args.out.write_text(json.dumps(out, indent=1) + '\n')

if __name__ == '__main__': main()
