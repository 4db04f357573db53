"""The two pictures of the front page, from the model that comes with the package; wants a browser and playwright

    python tools/pictures.py
"""
import io, shutil, sys, threading
from pathlib import Path
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
IMAGES = ROOT / 'nbs' / 'images'
BROWSERS = 'chromium', 'chromium-browser', 'google-chrome'

def opened(clip: int, frame: int, **hide):   # hide: `Hide` by modality
    "The viewer on a held-out clip of the easy synthetic world"
    from avmae_nb.interop.shipped import open_shipped
    from avmae_nb.data.sources import open_source
    from avmae_nb.view.explore import ViewState
    from avmae_nb.view.viewer import view
    model, config, *_ = open_shipped()
    return view(model, config, open_source(config.data.replace(source='synthetic', path=None, world='easy'), 'eval'), ViewState(clip=clip, frame=frame, hide=hide))

def screenshot(viewer, browser, wide: int = 950) -> bytes:   # browser: of playwright
    "The whole viewer as PNG"
    from avmae_nb.view.page import serve
    server, address = serve(viewer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_page(viewport={'width': wide + 16, 'height': 1200})
    try:
        for _ in range(2):   # the second time everything is compiled
            page.goto(address); page.wait_for_selector('.avmae[data-ready]', timeout=120_000); page.wait_for_selector('.avmae-thumb canvas')
        return page.locator('.avmae').screenshot()
    finally:
        page.close(); server.shutdown()

def main():
    import numpy as np
    from PIL import Image
    from playwright.sync_api import sync_playwright
    from avmae_nb.view.explore import Hide, paint
    heard = np.ones((8, 8), bool); heard[1:4] = False; heard[4:6, 6] = False   # time by frequency, of the spectrogram: what can be heard
    viewer = opened(1, 5, video=Hide('block', 0.75), audio=Hide(painted=paint(heard)))
    with sync_playwright() as p: photo = screenshot(viewer, p.chromium.launch(executable_path=next(filter(None, map(shutil.which, BROWSERS)), None), args=['--no-sandbox']))
    Image.open(io.BytesIO(photo)).convert('RGB').save(IMAGES / 'viewer.webp', quality=82, method=6)
    opened(5, 0, video=Hide('random', 0.75), audio=Hide('random', 0.8)).save(IMAGES / 'reconstruction.webp')
    for f in sorted(IMAGES.glob('*.webp')): print(f'{f}: {f.stat().st_size / 1000:.0f} kB')

if __name__ == '__main__': main()
