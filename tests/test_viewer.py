"The reconstruction viewer in a real browser: exact pixels without a kernel, every control, keyboard, accessibility, JupyterLab and Notebook 7 from opening to playing"
import base64, json, os, shutil, signal, subprocess, sys, threading, time, urllib.request
from pathlib import Path
import numpy as np, pytest
from conftest import free_port
from avmae_nb.config import ConfigError
from toys import toy_config

ROOT = Path(__file__).parents[1]
NASTY = '<img src=x onerror="document.title=\'broken\'"> & "quoted"'
FLAGS = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync --autoplay-policy=no-user-gesture-required'.split()

# The page's side alone: a stand-in for the kernel with answers written by hand

@pytest.fixture(scope='module')
def browser(chromium):
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    with playwright.sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium, args=FLAGS)
        yield b
        b.close()

@pytest.fixture
def page(browser):
    "A page that fails its test if anything is written to the console as an error"
    p, errors = browser.new_page(viewport={'width': 1250, 'height': 1000}), []
    p.on('console', lambda m: m.type == 'error' and errors.append(m.text))
    p.on('pageerror', lambda e: errors.append(str(e)))
    yield p
    p.close()
    assert not errors, errors

BOOT = """async ([script, silent]) => {
  const module = await import(URL.createObjectURL(new Blob([script], { type: 'text/javascript' }))), heard = {}; window.asks = []; window.heard = heard
  const bytes = t => new DataView(Uint8Array.from(atob(t), c => c.charCodeAt(0)).buffer)
  const model = { on: (e, f) => (heard[e] ||= []).push(f), off: (e, f) => { heard[e] = (heard[e] || []).filter(h => h !== f) }, get() {}, set() {}, save_changes() {},
    send: async ask => { window.asks.push(ask); const got = await window.askKernel(JSON.parse(JSON.stringify(ask))); if (got) for (const f of heard['msg:custom'] || []) f(got[0], got[1].map(bytes)) } }
  window.stopViewer = module.default.render({ model, el: document.getElementById('here') }) }"""

def mount(page, answer):
    "The viewer on a page whose questions go to `answer(ask) -> (content, {name: array})`, or None for silence"
    from avmae_nb.view.viewer import page_files
    script, style = page_files()
    def kernel(ask):
        found = answer(ask)
        if found is None: return None
        content, arrays = found
        told = {'id': ask['id'], 'page': ask['page'], 'kind': ask['ask'], **content, 'arrays': [dict(name=k, dtype=str(a.dtype), shape=list(a.shape)) for k, a in arrays.items()]}
        return told, [base64.b64encode(np.ascontiguousarray(a).tobytes()).decode() for a in arrays.values()]
    page.set_content(f'<!doctype html><html lang="en"><head><title>viewer</title><style>{style}</style></head><body><main><h1>viewer</h1><h2>one</h2><div id="here"></div></main></body></html>')
    page.expose_function('askKernel', kernel)
    page.evaluate(BOOT, [script, None])

# Two frames of 4x4 pixels in patches of 2x2, and a spectrogram of 4 steps and 4 bins in patches of 2x2
FILM = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3) * 2
GUESS = (255 - FILM).astype(np.uint8)
SOUND = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
LUT = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 7)], 1).astype(np.uint8)

def by_hand(missing=(), title='clip', flags=3):
    "Answers of the smallest kernel there is"
    hidden = {'video': np.array([[[0, 1], [0, 0]], [[1, 1], [1, 1]]], np.uint8), 'audio': np.array([[1, 0], [0, 0]], np.uint8)}
    def answer(ask):
        describe = lambda name, shape, patch, duration: dict(name=name, shape=shape, patch=patch, grid=[s // p for s, p in zip(shape, patch)], trimmed=shape, duration=duration, kinds=['random', 'time'], ticks=[['1000', 0.5]], hertz=[500, 2000])
        modalities = [describe('video', [2, 4, 4], [1, 2, 2], 1.0), describe('audio', [4, 4], [2, 2], 1.0)]
        can = dict(kernel=True, paint=True, attention=True, other=True, clips=4, sounds=['original', 'pasted'], models=[title, 'b'], layers=2, heads=2, save=['png', 'code'])
        if ask['ask'] == 'start': return dict(modalities=modalities, can=can, state=dict(clip=0, frame=0, hide={m: dict(kind='random', ratio=0.5, seed=0, drop=False, painted='') for m in hidden}, model='', compare='', other=False)), {'lut': LUT.ravel()}
        if ask['ask'] == 'thumbs': return dict(first=0, clips=[dict(index=0, title=title), dict(index=1, title='b', error=NASTY)]), {'thumb/0': np.full((48, 48, 3), 9, np.uint8)}
        if ask['ask'] == 'sound' and 'audio' in missing: return dict(which=ask['which'], note="no sound to play: this clip's original has none"), {}
        if ask['ask'] != 'answer': return None
        if ask['state']['clip'] == 2: return dict(error=f'MediaError: {NASTY}'), {}
        now = {m: _unpack(ask['state']['hide'][m]['painted'], h) for m, h in hidden.items()}
        f = {'video': np.full((2, 2, 2), flags, np.uint8), 'audio': np.full((2, 2), 3, np.uint8)}
        arrays = {**{f'hidden/{m}': h for m, h in now.items()}, 'screen/video': GUESS, 'screen/audio': 255 - SOUND, 'error/video': np.arange(8, dtype=np.float32).reshape(2, 2, 2), 'error/audio': np.arange(4, dtype=np.float32).reshape(2, 2), **{f'flags/{m}': v for m, v in f.items()}}
        content = dict(figures={m: dict(hidden=int(h.sum()), tokens=h.size, error=0.25) for m, h in now.items()}, statistics='pixels', model_ms=1.0, nonfinite={'video': 0 if flags & 2 else 8, 'audio': 0})
        if ask['have'] == ask['state']['clip']: return content, arrays
        clip = dict(index=ask['state']['clip'], title=title, missing=list(missing), limits={'audio': [-80, 0]}, sounds='audio' not in missing)
        return {**content, 'clip': clip}, {**arrays, 'original/video': FILM, 'original/audio': SOUND}
    return answer

def _unpack(text, default): return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:default.size].reshape(default.shape) if text else default

PATCH = "([key, x, y]) => [...document.querySelector(`canvas[data-key=\"${key}\"]`).getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3)"
def pixel(page, key, x, y): return page.evaluate(PATCH, [key, x, y])
def data(page, name): return page.evaluate(f"document.querySelector('.avmae').dataset.{name}")
def settle(page, count): page.wait_for_function(f"+document.querySelector('.avmae').dataset.answers >= {count}")
def ready(page, timeout=60000): page.wait_for_selector('.avmae[data-ready]', timeout=timeout)
def readout(page): return page.locator('.avmae-readout').inner_text()

def test_exact_pixels(page):
    mount(page, by_hand()); ready(page)
    at = lambda row, col: (col * 48 + 24, row * 48 + 24)   # 4 pixels are drawn as 192
    for frame in (0, 1):
        page.locator('.avmae-frame').fill(str(frame))
        for row, col in [(0, 0), (1, 3), (2, 2), (3, 1)]:
            assert pixel(page, 'original/video', *at(row, col)) == FILM[frame, row, col].tolist()
            assert pixel(page, 'reconstruction/video', *at(row, col)) == GUESS[frame, row, col].tolist()
            hidden = frame == 1 or (row < 2 and col >= 2)
            assert pixel(page, 'pasted/video', *at(row, col)) == (GUESS if hidden else FILM)[frame, row, col].tolist()
            masked = pixel(page, 'masked/video', *at(row, col))
            assert (len(set(masked)) == 1 and 0x8f <= masked[0] <= 0xdb) if hidden else masked == FILM[frame, row, col].tolist()
            error = (frame * 4 + (row // 2) * 2 + col // 2) / 7
            assert pixel(page, 'error/video', *at(row, col)) == LUT[round(255 * error)].tolist()
    for step, bin in [(0, 0), (1, 3), (3, 2)]:   # 160 x 56 for a value; high frequencies on top
        assert pixel(page, 'original/audio', step * 160 + 80, (3 - bin) * 56 + 28) == LUT[SOUND[step, bin]].tolist()
        assert pixel(page, 'reconstruction/audio', step * 160 + 80, (3 - bin) * 56 + 28) == LUT[255 - SOUND[step, bin]].tolist()

def test_not_a_number_is_a_cross(page):
    mount(page, by_hand(flags=1)); ready(page)
    assert pixel(page, 'reconstruction/video', 48, 48) == [0, 0, 0] and pixel(page, 'reconstruction/video', 48, 12) == [255, 255, 255]   # where the strokes meet, and between them
    assert '8 patches of video are not finite' in page.locator('.avmae-status').inner_text()

def test_markup_in_names_is_text(page):
    mount(page, by_hand(title=NASTY)); ready(page); page.wait_for_selector('.avmae-thumb')
    assert page.locator('.avmae-name').inner_text() == NASTY
    assert page.locator('.avmae img').count() == 0 and page.title() == 'viewer'
    page.get_by_label('next clip').click(); page.get_by_label('next clip').click()   # clip 2 cannot be read
    page.wait_for_function("document.querySelector('.avmae-status').textContent.includes('MediaError')")
    assert page.locator('.avmae-number[aria-label^=clip]').input_value() in '01' and page.title() == 'viewer'
    assert pixel(page, 'original/video', 24, 24) == FILM[0, 0, 0].tolist()   # the last picture stays

def test_buttons_go_past_a_clip_that_cannot_be_read(page):
    mount(page, by_hand()); ready(page)
    after, before = page.get_by_label('next clip'), page.get_by_label('previous clip')
    change(page, after.click)
    for button, other_side in ((after, 3), (before, 1)):   # clip 2 cannot be read
        button.click(); page.wait_for_function("document.querySelector('.avmae-status').textContent.includes('MediaError')")
        change(page, button.click)
        assert page.get_by_label('clip, 0 to 3').input_value() == str(other_side)
    after.click(); page.wait_for_function("document.querySelector('.avmae-status').textContent.includes('MediaError')")
    change(page, lambda: page.get_by_label('video: share hidden').press('ArrowLeft'))   # clip 1 again: from there on
    change(page, before.click)
    assert page.get_by_label('clip, 0 to 3').input_value() == '0'

def test_a_kernel_that_is_gone_leaves_the_picture(page):
    alive, answer = [True], by_hand()
    mount(page, lambda ask: answer(ask) if alive[0] else None); ready(page)
    alive[0] = False
    page.get_by_label('video: share hidden').press('ArrowRight')
    page.wait_for_function("document.querySelector('.avmae-status').textContent.includes('No answer from the kernel')", timeout=9000)
    assert pixel(page, 'reconstruction/video', 24, 24) == GUESS[0, 0, 0].tolist()
    page.evaluate("heard['comm_live_update'].forEach(f => f())")
    assert 'The kernel is gone' in page.locator('.avmae-status').inner_text()

def test_the_first_question_of_a_kind_may_take_its_time(page):
    "Attention compiles a program of its own: the page does not call the kernel gone, and waits for the answer"
    answer, late = by_hand(), []
    mount(page, lambda ask: late.append(ask) if ask['ask'] == 'attend' else answer(ask)); ready(page)
    page.locator('input[value=look]').check()
    page.locator('canvas[data-key="original/video"]').click(position={'x': 10, 'y': 10})
    page.wait_for_function("document.querySelector('.avmae-status').textContent.includes('the first time takes longer')", timeout=9000)
    assert late and 'gone' not in page.locator('.avmae-status').inner_text()

def test_in_a_narrow_window_pictures_come_first(page):
    page.set_viewport_size({'width': 640, 'height': 900}); mount(page, by_hand()); ready(page)
    top = lambda name: page.locator(name).first.bounding_box()
    assert top('.avmae-stage')['y'] < top('.avmae-side')['y'] and top('.avmae-side')['height'] < 700
    page.set_viewport_size({'width': 1250, 'height': 900})
    stage, side = top('.avmae-stage'), top('.avmae-side')
    assert abs(stage['y'] - side['y']) < 2 and side['x'] < stage['x'] and side['width'] < 240

def test_a_clip_without_picture(page):
    mount(page, by_hand(missing=['video'])); ready(page)
    assert 'no video' in page.locator('.avmae-name').inner_text() and pixel(page, 'original/audio', 80, 28) == LUT[SOUND[0, 3]].tolist()
    assert page.locator('canvas[data-key="original/video"]').get_attribute('aria-label').endswith('(this clip has none)')

def test_a_clip_without_sound(page):
    mount(page, by_hand(missing=['audio'])); ready(page)
    assert 'no audio' in page.locator('.avmae-name').inner_text() and pixel(page, 'original/video', 24, 24) == FILM[0, 0, 0].tolist()
    assert page.locator('canvas[data-key="original/audio"]').get_attribute('aria-label').endswith('(this clip has none)')
    page.get_by_label('play', exact=True).click()   # the frames move, and no sound is waited for
    page.wait_for_function("document.querySelector('.avmae').dataset.frame === '1'", timeout=9000)
    page.wait_for_function("document.querySelector('.avmae').dataset.playing === ''", timeout=9000)
    assert data(page, 'sounded') == '0.000' and 'has none' in page.locator('.avmae-status').inner_text()

def test_paint_erase_undo(page):
    mount(page, by_hand()); ready(page)
    box = page.locator('canvas[data-key="masked/audio"]').bounding_box()
    place = lambda t, f: (box['x'] + box['width'] * (t + 0.5) / 2, box['y'] + box['height'] * (1.5 - f) / 2)
    sent = lambda: page.evaluate("asks.filter(a => a.ask === 'answer').at(-1).state.hide.audio.painted")
    page.mouse.move(*place(1, 0)); page.mouse.down(); page.mouse.move(*place(1, 1)); page.mouse.up(); settle(page, 2)
    page.wait_for_function("asks.filter(a => a.ask === 'answer').at(-1).state.hide.audio.painted === 'b0'")   # 1011
    page.locator('input[value=reveal]').check(); page.mouse.click(*place(0, 0))
    page.wait_for_function("asks.filter(a => a.ask === 'answer').at(-1).state.hide.audio.painted === '30'")
    page.get_by_label('undo the last change').click()
    page.wait_for_function("asks.filter(a => a.ask === 'answer').at(-1).state.hide.audio.painted === 'b0'")
    page.get_by_label('undo the last change').click(); page.wait_for_timeout(150)
    assert sent() == '' and page.get_by_label('undo the last change').is_disabled()
    page.get_by_label('redo').click(); page.wait_for_timeout(150)
    assert sent() == 'b0'

def test_same_time_ties_the_modalities(page):
    mount(page, by_hand()); ready(page)
    page.get_by_text('same time in both').click()
    page.locator('input[value=reveal]').check()
    page.locator('.avmae-frame').fill('1')
    box = page.locator('canvas[data-key="masked/video"]').bounding_box(); page.mouse.click(box['x'] + 5, box['y'] + 5)
    page.wait_for_function("asks.filter(a => a.ask === 'answer').at(-1).state.hide.video.painted === '47'")   # 0100 0111: one patch of the second frame
    assert page.evaluate("asks.filter(a => a.ask === 'answer').at(-1).state.hide.audio.painted") == '80'   # 1000: the second half was visible already

def test_the_newest_state_wins_and_no_queue_is_left(page):
    answer = by_hand()
    def slow(ask): time.sleep(0.05 if ask['ask'] == 'answer' else 0); return answer(ask)
    mount(page, slow); ready(page)
    page.evaluate("() => { const s = document.querySelector('[aria-label=\"video: share hidden\"]'); for (let v = 0; v <= 90; v++) { s.value = v; s.dispatchEvent(new Event('input')) } }")
    page.wait_for_function("asks.filter(a => a.ask === 'answer').at(-1).state.hide.video.ratio === 0.9")
    page.wait_for_timeout(300)
    assert page.evaluate("asks.filter(a => a.ask === 'answer').length") <= 4

def test_keys_do_not_reach_the_notebook(page):
    mount(page, by_hand()); ready(page)
    page.evaluate("() => { window.taken = 0; document.addEventListener('keydown', () => window.taken++) }")
    page.locator('.avmae-frame').press('ArrowRight')
    assert page.evaluate('taken') == 0 and data(page, 'frame') == '1'

def test_a_closed_view_leaves_nothing_behind(page):
    mount(page, by_hand()); ready(page)
    page.evaluate('stopViewer()')
    assert page.locator('.avmae').count() == 0 and page.evaluate("Object.values(heard).every(h => h.length === 0)")

def test_reduced_motion_and_contrast_are_asked_for():
    style = (ROOT / 'avmae_nb/view/static/viewer.css').read_text()
    assert 'prefers-reduced-motion' in style and 'forced-colors' in style and '--jp-layout-color0' in style and ':focus-visible' in style
    assert style.count('transition') == style.split('prefers-reduced-motion: no-preference')[1].count('transition')   # nothing moves for people who do not want it

# With a model behind it, and no Jupyter

@pytest.fixture(scope='module')
def viewer():
    from avmae_nb.train.pretrain import build_model
    from avmae_nb.view.viewer import view
    config = toy_config(**{'data.clips': 12})
    other = build_model(config.replace(**{'train.seed': 1}))
    return view(build_model(config), config, compare={'another': other})

@pytest.fixture
def served(viewer, page):
    from avmae_nb.view.page import serve
    from avmae_nb.view.explore import first_state
    viewer.state = first_state(viewer.explorer.config)
    server, address = serve(viewer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page.goto(address); ready(page)
    yield page
    server.shutdown(); server.server_close()

def change(page, act):
    "Do something that asks the model, wait for the picture"
    before = int(data(page, 'answers')); act(); page.wait_for_function(f"+document.querySelector('.avmae').dataset.answers > {before}", timeout=30000)

def test_each_control_does_something(served, viewer):
    page = served
    for label in ('video: share hidden', 'audio: share hidden'): change(page, lambda: page.get_by_label(label).press('ArrowLeft'))
    assert round(viewer.state.hide['video'].ratio, 2) == 0.74
    change(page, lambda: page.get_by_label('video: kind of mask').select_option('tube')); assert viewer.state.hide['video'].kind == 'tube'
    change(page, lambda: page.get_by_label('audio: seed of the mask').fill('5') or page.get_by_label('audio: seed of the mask').press('Enter')); assert viewer.state.hide['audio'].seed == 5
    change(page, lambda: page.get_by_text('hide all of the audio').click()); assert viewer.state.hide['audio'].drop
    change(page, lambda: page.get_by_text('hide all of the audio').click())
    change(page, lambda: page.get_by_text('what came from the other').click()); assert page.locator('canvas[data-row=gain]').count() == 2 and 'removed by the other' in page.locator('.avmae-facts').inner_text()
    change(page, lambda: page.get_by_label('model to compare with').select_option('another')); assert page.locator('canvas[data-row="error 2"]').count() == 2
    change(page, lambda: page.get_by_label('next clip').click()); assert viewer.state.clip == 1
    page.wait_for_selector('.avmae-thumb'); change(page, lambda: page.locator('.avmae-thumb').nth(4).click()); assert viewer.state.clip == 4
    page.get_by_label('later clips').click(); page.wait_for_selector('.avmae-thumb[data-index="8"]')
    page.locator('label.avmae-check', has_text='error').first.click(); assert page.locator('canvas[data-row=error]').count() == 0
    page.get_by_label('size of the pictures').select_option('208'); assert page.locator('canvas[data-key="original/video"]').bounding_box()['height'] == 208

def test_attention_from_a_click(served):
    page = served; page.locator('input[value=look]').check()
    page.locator('canvas[data-key="original/video"]').click(position={'x': 10, 'y': 10})
    page.wait_for_selector('canvas[data-row=attention]', timeout=60000)
    assert 'to video' in readout(page) and 'to audio' in readout(page)
    for label, value in [('attention: layer', '1'), ('attention: head', '1')]:
        page.get_by_label(label).select_option(value); page.wait_for_timeout(300)
    assert page.locator('.avmae-status').evaluate('n => !n.classList.contains("avmae-alarm")')

def test_playing_moves_frames_and_playhead(served):
    page = served
    page.get_by_label('play', exact=True).click()
    page.wait_for_function("+document.querySelector('.avmae').dataset.sounded > 0.05", timeout=20000)
    a = [float(data(page, k)) for k in ('sounded', 'playhead')]; page.wait_for_function(f"+document.querySelector('.avmae').dataset.sounded > {a[0]} + 0.05")
    assert float(data(page, 'playhead')) > a[1] and int(data(page, 'frame')) >= 1
    page.wait_for_function("document.querySelector('.avmae').dataset.playing === ''", timeout=5000)   # it ends by itself
    for which in ('masked', 'pasted'):
        page.get_by_label('sound to play').select_option(which); page.get_by_label('play', exact=True).click()
        page.wait_for_function(f"document.querySelector('.avmae').dataset.playing === '{which}'", timeout=60000); page.locator('.avmae-play').click()

def test_what_is_saved(served, viewer):
    page = served
    for kind, start in [('PNG', b'\x89PNG'), ('SVG', b'<?xml'), ('animation', b'RIFF')]:
        with page.expect_download(timeout=60000) as found: page.get_by_label(f'save as {kind}').click()
        assert Path(found.value.path()).read_bytes().startswith(start)
    page.get_by_label('save as code').click(); page.wait_for_selector('.avmae-code:not([hidden])')
    code = page.locator('.avmae-code').input_value()
    assert 'view(model, config, compare=compare, state=ViewState(' in code and compile(code, 'code', 'exec')

def test_keyboard_alone_reaches_and_works_everything(served, viewer):
    page = served; page.wait_for_selector('.avmae-thumb'); seen = []
    page.evaluate('document.activeElement.blur()')
    for _ in range(120):
        page.keyboard.press('Tab')
        here = page.evaluate("() => { const n = document.activeElement; return n.closest('.avmae') ? (n.getAttribute('aria-label') || n.closest('label')?.innerText || n.innerText || n.tagName) : null }")
        if here is None and seen: break
        if here: seen.append(here); assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != 'none', here   # the focus can be seen
    wanted = page.evaluate("() => [...document.querySelectorAll('.avmae button:not(:disabled), .avmae select, .avmae textarea:not([hidden]), .avmae input:not([type=radio]), .avmae canvas[tabindex]')].map(n => n.getAttribute('aria-label') || n.closest('label')?.innerText || n.innerText)")
    assert not set(wanted) - set(seen), set(wanted) - set(seen)
    canvas = page.locator('canvas[data-key="masked/audio"]'); canvas.focus()
    for key in ('ArrowRight', 'ArrowUp'): page.keyboard.press(key)
    assert 'audio' in readout(page) and 'Hz' in readout(page)
    change(page, lambda: page.keyboard.press('Enter')); assert viewer.state.hide['audio'].painted
    change(page, lambda: page.keyboard.press('Control+z')); assert not viewer.state.hide['audio'].painted
    page.locator('canvas[data-key="masked/video"]').focus(); page.keyboard.press('PageDown'); assert data(page, 'frame') == '1'

@pytest.fixture(scope='session')
def axe(tmp_path_factory):
    "axe-core from npm"
    if not shutil.which('npm'): pytest.skip('no npm on this machine: the accessibility audit needs axe-core')
    cached = Path(os.environ.get('AVMAE_AXE', ROOT / '.cache' / 'axe')); script = cached / 'node_modules/axe-core/axe.min.js'
    if not script.exists():
        cached.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(['npm', 'install', '--prefix', str(cached), '--no-audit', '--no-fund', '--ignore-scripts', 'axe-core@4'], capture_output=True, text=True, timeout=120)
        if done.returncode or not script.exists(): pytest.skip(f'npm cannot get axe-core: {done.stderr[-200:]}')
    return script.read_text(encoding='utf-8')

@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_accessibility_audit(served, axe, scheme):
    page = served; page.emulate_media(color_scheme=scheme); page.wait_for_selector('.avmae-thumb')
    change(page, lambda: page.get_by_text('what came from the other').click())
    page.evaluate(axe)
    found = page.evaluate("axe.run(document)")
    bad = [(v['id'], v['impact'], [n['html'][:150] for n in v['nodes']][:3]) for v in found['violations']]
    assert not [b for b in bad if b[1] in ('serious', 'critical', 'moderate')], bad

@pytest.mark.parametrize('gone', ['video', 'audio'])
def test_models_of_one_modality(page, gone):
    from avmae_nb.train.pretrain import build_model
    from avmae_nb.view.page import serve
    from avmae_nb.view.viewer import view
    config = toy_config(**{gone: None, 'data.clips': 4})
    server, address = serve(view(build_model(config), config)); threading.Thread(target=server.serve_forever, daemon=True).start()
    page.goto(address); ready(page)
    assert page.locator('.avmae canvas[data-row=original]').count() == 1 and page.get_by_text('what came from the other').count() == 0
    page.get_by_label('play', exact=True).click(); page.wait_for_function("document.querySelector('.avmae').dataset.playing !== ''", timeout=20000)
    page.wait_for_function("document.querySelector('.avmae').dataset.playing === ''", timeout=20000)
    change(page, lambda: page.locator('input[type=range][aria-label$="share hidden"]').press('ArrowLeft'))
    server.shutdown(); server.server_close()

# One file

def test_a_file_without_kernel(viewer, page, tmp_path):
    from avmae_nb.view.page import save_html
    path = save_html(viewer, tmp_path / 'clip.html', ratios=(0.5, 0.9))
    page.goto(path.as_uri()); ready(page)
    first = page.locator('.avmae-facts').inner_text()
    change(page, lambda: page.get_by_label('audio: share hidden').press('End')); assert page.locator('.avmae-facts').inner_text() != first
    change(page, lambda: page.get_by_text('hide all of the video').click())
    assert '8 of 8' in page.locator('.avmae-facts').inner_text()
    for which in ('original', 'masked', 'reconstruction', 'pasted'):
        page.get_by_label('sound to play').select_option(which); page.get_by_label('play', exact=True).click()
        page.wait_for_function(f"document.querySelector('.avmae').dataset.playing === '{which}' && +document.querySelector('.avmae').dataset.sounded > 0.02", timeout=20000)
        page.get_by_label('stop', exact=True).click()
    with page.expect_download() as found: page.get_by_label('save as PNG').click()
    assert Path(found.value.path()).read_bytes().startswith(b'\x89PNG')
    assert page.evaluate("performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:') && !r.name.startsWith('blob:')).length") == 0

def test_a_file_without_scripts_shows_the_picture(viewer, browser, tmp_path):
    from avmae_nb.view.page import save_html
    path = save_html(viewer, tmp_path / 'clip.html', ratios=(0.5,))
    context = browser.new_context(java_script_enabled=False); p = context.new_page(); p.goto(path.as_uri())
    assert p.locator('img').get_attribute('alt').startswith('1 clips')
    assert p.locator('img').bounding_box()['width'] > 300
    context.close()

# The kernel's side

def test_saved_outputs_fall_back_to_a_picture(viewer):
    bundle, meta = viewer._repr_mimebundle_()
    assert {'text/plain', 'text/html', 'image/png', 'application/vnd.jupyter.widget-view+json'} <= set(bundle)
    assert meta['image/png']['alt'] and '<script' not in bundle['text/html'] and 'alt="' in bundle['text/html']

def test_without_anywidget_the_picture_is_shown(viewer, monkeypatch):
    from avmae_nb.view import viewer as module
    def missing(): raise ConfigError('the viewer needs anywidget')
    monkeypatch.setattr(module, 'widget_class', missing)
    bare = module.Viewer(viewer.explorer)
    assert 'image/png' in bare._repr_mimebundle_()[0] and not [k for k in bare._repr_mimebundle_()[0] if 'widget' in k]

def test_errors_are_told_and_the_server_goes_on(viewer):
    from avmae_nb.view.viewer import reply
    state = viewer.state.to_dict()
    for ask, words in [({'ask': 'answer', 'state': {**state, 'clip': 400}}, 'this source has 12 clips'), ({'ask': 'dance'}, 'KeyError'), ({'ask': 'sound', 'state': state, 'which': 'roar'}, 'original'),
                       ({'ask': 'attend', 'state': state, 'modality': 'video', 'token': -1}, 'has 8 patches'), ({'ask': 'answer', 'state': {**state, 'model': 'anothre'}}, "did you mean 'another'")]:
        assert words in reply(viewer, ask)[0]['error']
    assert 'error' not in reply(viewer, {'ask': 'answer', 'state': state})[0]

def test_a_port_that_is_taken(viewer):
    from avmae_nb.view.page import serve
    server, address = serve(viewer)
    with pytest.raises(ConfigError, match='another --port'): serve(viewer, int(address.split(':')[2].split('/')[0]))
    for port in (-1, 65536, 99999999):
        with pytest.raises(ConfigError, match='1 to 65535'): serve(viewer, port)
    server.server_close()

# JupyterLab and Notebook 7, from opening to playing

NOTEBOOK = """import sys; sys.path.insert(0, {tests!r})
from toys import toy_config
from avmae_nb.train.pretrain import build_model
from avmae_nb.view.viewer import view
config = toy_config(**{{'data.clips': 12}})
viewer = view(build_model(config), config)
viewer"""
BOARD = """import math
from avmae_nb.view.board import watch
watch([{'step': s, 'time': 2.0 * s, 'loss': math.exp(-s / 30) + 0.1, 'loss/audio': math.exp(-s / 20)} for s in range(1, 90)])"""

FRONTS = {'lab': ('jupyterlab', 'LabApp', '/doc/tree/view.ipynb?reset'), 'notebook': ('notebook', 'JupyterNotebookApp', '/notebooks/view.ipynb')}   # package, application, page

@pytest.fixture(scope='module', params=FRONTS)
def lab(tmp_path_factory, request):
    "JupyterLab, and Notebook 7, with a notebook in it; returns the page's address and the notebook's path"
    package, app, place = FRONTS[request.param]
    pytest.importorskip(package, reason=f"{package} is not installed: pip install '.[dev]'")
    nbformat = pytest.importorskip('nbformat')
    folder, port = tmp_path_factory.mktemp('lab'), free_port()
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NOTEBOOK.format(tests=str(ROOT / 'tests'))), nbformat.v4.new_code_cell(BOARD)], metadata={'kernelspec': {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}})
    nbformat.write(nb, folder / 'view.ipynb')
    own = {f'JUPYTER_{n}_DIR': str(folder / n.lower()) for n in ('CONFIG', 'DATA', 'RUNTIME')}
    environment = {**os.environ, **own, 'JUPYTER_PREFER_ENV_PATH': '1'}
    subprocess.run([sys.executable, '-m', 'jupyter', 'labextension', 'disable', '@jupyterlab/apputils-extension:announcements'], env=environment, capture_output=True, timeout=120)
    server = subprocess.Popen([sys.executable, '-m', 'jupyter', request.param, '--no-browser', '--allow-root', '--ip', '127.0.0.1', '--port', str(port), '--ServerApp.port_retries=0', "--IdentityProvider.token=", '--ServerApp.password=', f'--{app}.expose_app_in_browser=True', f'--ServerApp.root_dir={folder}'],
                              env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(240):
            try: urllib.request.urlopen(f'http://127.0.0.1:{port}/api/status', timeout=1); break
            except OSError: time.sleep(0.25)
        else: pytest.skip(f'{package} did not start within a minute')
        yield f'http://127.0.0.1:{port}{place}', folder / 'view.ipynb'
    finally:
        os.killpg(server.pid, signal.SIGTERM); server.wait(20)

KERNEL = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel"

def test_in_jupyter(lab, browser):
    address, notebook = lab
    page, errors = browser.new_page(viewport={'width': 1500, 'height': 1200}), []
    page.on('pageerror', lambda e: "reading 'schema'" not in str(e) and errors.append(str(e)))   # Notebook 7's own, while it opens
    page.on('console', lambda m: m.type == 'error' and 'favicon' not in m.text and errors.append(m.text))
    page.goto(address); page.wait_for_function(f"{KERNEL}?.status === 'idle'", timeout=90000)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    ready(page, 120000); page.wait_for_selector('.avmae-thumb')
    change(page, lambda: page.get_by_label('video: share hidden').press('ArrowLeft'))
    change(page, lambda: page.get_by_label('video: kind of mask').select_option('time'))
    change(page, lambda: page.get_by_text('hide all of the audio').click()); change(page, lambda: page.get_by_text('hide all of the audio').click())
    canvas = page.locator('canvas[data-key="masked/audio"]'); canvas.scroll_into_view_if_needed(); box = canvas.bounding_box()
    page.mouse.move(box['x'] + 5, box['y'] + 5); page.mouse.down(); page.mouse.move(box['x'] + box['width'] - 5, box['y'] + 5, steps=6)
    change(page, page.mouse.up); assert 'painted' in page.locator('.avmae').inner_text()
    change(page, lambda: page.get_by_label('undo the last change').click())
    before = page.evaluate("document.querySelector('.jp-Notebook').scrollTop"); page.locator('.avmae-frame').press('ArrowRight'); assert data(page, 'frame') == '1'   # and not the notebook
    assert page.evaluate("document.querySelector('.jp-Notebook').scrollTop") == before
    page.get_by_label('play', exact=True).click(); page.wait_for_function("+document.querySelector('.avmae').dataset.sounded > 0.05", timeout=30000)
    page.locator('input[value=look]').check(); page.locator('canvas[data-key="original/video"]').click(position={'x': 20, 'y': 20}); page.wait_for_selector('canvas[data-row=attention]', timeout=60000)
    change(page, lambda: page.get_by_label('next clip').click())
    plots = page.locator('.jp-OutputArea .widget-html svg[role=img]'); plots.first.wait_for(timeout=30000)
    assert plots.count() == 2 and 'by step' in plots.first.get_attribute('aria-label')
    page.locator('.widget-dropdown select').select_option('time'); page.wait_for_function("document.querySelector('.widget-html svg[role=img]').getAttribute('aria-label').includes('by time')", timeout=20000)
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')"); page.wait_for_timeout(1500)
    assert not errors, errors
    saved = json.loads(notebook.read_text())
    bundle = saved['cells'][0]['outputs'][-1]['data']
    assert 'widgets' not in saved['metadata'] and bundle['image/png'] and 'alt="' in ''.join(bundle['text/html'])
    picture = page.locator('canvas[data-key="reconstruction/video"]').evaluate('c => c.toDataURL()')
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.shutdown()")
    page.get_by_label('audio: share hidden').press('ArrowLeft')
    page.wait_for_function("document.querySelector('.avmae-status').textContent.match(/kernel/)", timeout=20000)
    assert page.locator('canvas[data-key="reconstruction/video"]').evaluate('c => c.toDataURL()') == picture   # the last picture stays
    page.close()

def test_a_saved_notebook_shows_the_picture_without_scripts(lab, browser):
    nbconvert = pytest.importorskip('nbconvert')
    body, _ = nbconvert.HTMLExporter().from_filename(str(lab[1]))
    context = browser.new_context(java_script_enabled=False); page = context.new_page(); page.set_content(body)
    assert page.locator('img[alt^="1 clips"]').first.bounding_box()['width'] > 300
    context.close()

# The terminal, and curves with controls

def test_view_in_the_terminal(tmp_path, capsys):
    from avmae_nb.cli import main, parse
    from avmae_nb.train.pretrain import pretrain
    run = tmp_path / 'run'; pretrain(toy_config(**{'train.steps': 4, 'train.eval_every': 4, 'train.checkpoint_every': 4, 'train.eval_clips': 8}), run).fit()
    capsys.readouterr()
    assert main(['view', str(run), '--save', str(tmp_path / 'clip.html'), '--clip', '2']) == 0
    assert 'saved:' in capsys.readouterr().out and 'id="data"' in (tmp_path / 'clip.html').read_text()
    for words, message in [(['view', str(tmp_path / 'none')], 'there is no run folder'), (['view', str(run), '--clip', '4000', '--save', str(tmp_path / 'x.html')], 'this source has'), (['view', str(run), '--save', str(tmp_path / 'x.txt')], 'must end in .html')]:
        assert main(words) == 2 and message in capsys.readouterr().err
    assert main(['export', str(run), str(tmp_path / 'saved')]) == 0 and main(['view', str(tmp_path / 'saved'), '--compare', str(run), '--save', str(tmp_path / 'clips.html')]) == 0   # no clips of its own: those of the package
    assert 'bbb.mp4' in (tmp_path / 'clips.html').read_text()
    args = parse(['view', str(run), '--compare', 'a', '--compare', 'b', '--port', '8123', '--no-browser'])
    assert (args.compare, args.port, args.no_browser) == (['a', 'b'], 8123, True)

def test_checkpoints_of_a_run_are_models_to_compare(tmp_path):
    from avmae_nb.train.pretrain import pretrain
    from avmae_nb.view.viewer import view
    run = tmp_path / 'run'; pretrain(toy_config(**{'train.steps': 8, 'train.eval_every': 8, 'train.checkpoint_every': 4}), run).fit()
    viewer = view(run)
    assert viewer.explorer.names[0] == 'run, step 8' and 'run, step 4' in viewer.explorer.names
    errors = [viewer.explorer.ask(viewer.state, name).error['video'] for name in ('run, step 8', 'run, step 4')]
    assert not np.array_equal(*errors)
    assert f'view({str(run)!r}, state=' in viewer.code()

def test_the_board_follows_another_process(tmp_path):
    from avmae_nb.view.board import watch
    code = "import sys, time\nf = open(sys.argv[1], 'a')\nfor s in range(1, 41): f.write('{\"step\": %d, \"loss\": %f, \"time\": %f}\\n' % (s, 1 / s, s)); f.flush()\n"
    (tmp_path / 'run').mkdir(); board = watch(tmp_path / 'run')
    assert 'nothing logged yet' in board.html()
    subprocess.run([sys.executable, '-c', code, str(tmp_path / 'run' / 'log.jsonl')], check=True)
    assert board.refresh() and board.logs['run'][-1]['step'] == 40 and '<title>run: step 40, loss 0.025</title>' in board.html()

def test_the_board_in_a_browser(page, tmp_path):
    from avmae_nb.view.board import CurvesBoard
    rows = [{'step': s, 'loss': 1 / s if s < 60 else float(s), 'clips_per_second': 40.0} for s in range(1, 100)]
    board = CurvesBoard([{**r, NASTY: 1.0} for r in rows], rows)
    page.set_content(f'<!doctype html><html lang="en"><head><title>curves</title></head><body>{board.html()}</body></html>')
    assert page.title() == 'curves' and page.locator('svg[role=img]').count() == 3 and page.locator('img').count() == 0
    assert 'diverged at step' in page.locator('svg[role=img]').first.inner_html()

def test_the_picture_of_the_front_page(browser, monkeypatch):
    "`tools/pictures.py` photographs the viewer whole"
    import io
    from PIL import Image
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    import pictures
    from avmae_nb.view.explore import Hide
    photo = Image.open(io.BytesIO(pictures.screenshot(pictures.opened(0, 0, video=Hide('random', 0.5), audio=Hide('random', 0.5)), browser)))
    assert photo.width == 950 and photo.height > 700 and len(photo.convert('RGB').getcolors(1 << 20)) > 5000   # films, spectrograms, a colour map
