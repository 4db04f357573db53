"What is drawn: three faces, nothing that needs JavaScript, masks where they are, curves, the live panel, the check page"
import html, io, json
from html.parser import HTMLParser
from pathlib import Path
import jax, numpy as np, pytest
from flax import nnx
from hypothesis import given, strategies as st
from avmae_nb.config import ConfigError, LogMel, Mask, Stack, preset
from avmae_nb.view import curves, figure, live, panel

ROOT = Path(__file__).parents[1]
VIEW = sorted((ROOT / 'nbs' / 'view').glob('*.ipynb'))
TINY = preset('tiny').replace(**{'video.tubelet': (2, 8, 8), 'video.mask': Mask(ratio=0.8), 'audio.mask': Mask(ratio=0.7), 'audio.patch': (16, 16), 'model.encoder_stack': Stack(24, 3, 2, 48), 'model.decoder_stack': Stack(24, 1, 2, 48), 'data.clips': 32, 'train.batch': 4, 'train.steps': 3, 'train.eval_clips': 4, 'train.log_every': 1, 'optim.warmup_epochs': 0.1})

class Page(HTMLParser):
    "Collects tags, and checks that they nest"
    VOID = {'img', 'br', 'input', 'hr', 'meta'}
    def __init__(self, text):
        super().__init__(); self.tags, self.open = [], []
        self.feed(text); assert not self.open, self.open
    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID: self.open.append(tag)
    def handle_endtag(self, tag): assert self.open.pop() == tag

def check_html(text):
    "Well formed, no script, every picture with an alternative text, nothing fetched from elsewhere"
    tags = Page(text).tags
    assert not [t for t, _ in tags if t in ('script', 'iframe', 'object')]
    assert not [a for _, a in tags for k in a if k.startswith('on')]
    assert all(a.get('alt', '').strip() for t, a in tags if t == 'img')
    assert all(a.get('aria-label') for t, a in tags if t in ('audio', 'video'))
    assert all(a['src'].startswith('data:') for t, a in tags if 'src' in a)
    return tags

# Panel

NASTY = '<img src=x onerror=alert(1)> & "quoted" $x^2$'

def test_three_faces_and_escaping():
    p = panel.Panel(np.zeros((20, 30, 3), np.uint8), alt=NASTY, text=NASTY, title=NASTY)
    data, meta = p._repr_mimebundle_()
    assert set(data) == {'text/html', 'image/png', 'text/plain'} and meta['image/png']['alt'] == NASTY
    tags = check_html(data['text/html'])
    assert [a['alt'] for t, a in tags if t == 'img'] == [NASTY]
    assert NASTY in repr(p) and NASTY not in data['text/html']

@pytest.mark.parametrize('alt', ['', '  '])
def test_a_picture_needs_an_alternative_text(alt):
    with pytest.raises(ValueError, match='needs alt'): panel.Panel(np.zeros((2, 2, 3), np.uint8), alt=alt)

def test_tables_and_stacks():
    t = panel.table([(NASTY, 1234567, None), ('b', 0.00012346, 2.0)], ['<name>', 'count', 'x'], title='t')
    check_html(t.html)
    assert '1,234,567' in t.text and '0.0001235' in t.text and '–' in t.text
    lines = panel.table_text([('a', 1), ('b', 1000)], ['n', 'count']).splitlines()
    assert len({len(x) for x in lines}) == 1   # numbers are set to the right
    s = panel.Panels(t, panel.Panel(np.zeros((4, 4, 3), np.uint8), alt='black'), title='both')
    check_html(s.html); assert s.png and 'black' in s.text and s.alt == 'black'

def test_the_notebook_gets_a_small_png_and_the_file_a_full_one():
    noise = np.random.default_rng(0).integers(0, 256, (500, 900, 3)).astype(np.uint8)
    p = panel.Panel(noise, alt='noise')
    assert len(p._repr_mimebundle_()[0]['image/png']) < 150_000
    assert (np.asarray(panel.as_image(p.png)) == noise).all()

def test_players_play(tmp_path):
    av = pytest.importorskip('av')
    wave = (0.3 * np.sin(np.arange(16000) * 0.1)).astype(np.float32)
    frames = np.random.default_rng(0).integers(0, 255, (6, 33, 47, 3)).astype(np.uint8)   # odd sizes, which H.264 refuses
    with av.open(io.BytesIO(panel.mp4_bytes(frames, 12.5, wave, 16000))) as c: assert len(list(c.decode(video=0))) == 6
    with av.open(io.BytesIO(panel.opus_bytes(wave, 16000))) as c: assert abs(sum(f.samples for f in c.decode(audio=0)) / 48000 - 1) < 0.05
    with av.open(io.BytesIO(panel.wav_bytes(5 * wave, 16000))) as c: assert np.abs(np.concatenate([f.to_ndarray() for f in c.decode(audio=0)], 1)).max() <= 32767
    for h in (panel.audio_player(wave, 16000, NASTY), panel.video_player(frames, 12.5, NASTY), panel.flipbook(frames, np.arange(6) / 12.5, NASTY)): check_html(h)

def test_sound_without_opus_is_wav(monkeypatch):
    def missing(*args): raise ValueError('no libopus')
    monkeypatch.setattr(panel, 'opus_bytes', missing)
    assert 'data:audio/wav' in panel.audio_player(np.zeros(100, np.float32), 16000, 'silence')
    assert len(panel.wav_bytes(np.full(10, np.nan), 16000)) == 64 

def test_flipbook_has_a_button_and_a_rule_for_each_frame():
    book = panel.flipbook(np.zeros((5, 8, 8, 3), np.uint8), np.arange(5) * 0.1, 'black')
    assert book.count('type="radio"') == 5 and book.count(':checked~.film img{transform') == 5
    assert 'aria-label="frame 5 of 5, 0.40 s"' in book

# Figures

def test_hidden_patches_are_drawn_where_they_are():
    modality, axis = TINY.modalities['video'], figure.time_axis(TINY.modalities)
    hidden = np.zeros(modality.grid, bool); hidden[3, 5, 6] = True   # third tubelet, row 5, column 6
    (x, y, w, h), = figure.strip_boxes(hidden, modality, axis)
    assert (y, h) == (40, 8) and abs(x - axis.edges[3] - 0.96 * axis.width * 6 / 8) < 1e-9 and abs(w - 0.96 * axis.width / 8) < 1e-9
    assert len(figure.strip_boxes(np.ones(modality.grid, bool), modality, axis)) == modality.tokens

def test_time_and_frequency_axes():
    vgg = preset('vggsound')
    axis = figure.time_axis(vgg.modalities)
    assert axis.seconds == 8.0 and axis.times[-1] < 2.56 and not axis.aligned
    assert figure.time_axis({'audio': vgg.modalities['audio']}).index == ()
    fig = figure.draw_page([figure.Row('video', np.zeros((1, 16, 64, 64, 3), np.float32)), figure.Row('audio', np.zeros((1, 128, 128), np.float32))], TINY, [(NASTY, NASTY)])
    strip, sound = fig.axes
    assert strip.get_xlim() == sound.get_xlim() == (0, TINY.video.seconds)
    assert sound.get_xlabel() == 'time (s)' and sound.get_ylabel() == 'Hz' and [t.get_text() for t in sound.get_yticklabels()] == ['250', '1000', '4000']
    assert figure.mel_bin(1000, LogMel()) > figure.mel_bin(250, LogMel())
    panel.png_bytes(fig)   # a title with dollar signs is not mathematics

@pytest.mark.parametrize('values', [np.nan, np.inf, 0.0, 1e30])
def test_odd_values_are_drawn(values):
    rows = [figure.Row('video', np.full((1, 16, 64, 64, 3), values, np.float32)), figure.Row('audio', np.full((1, 128, 128), values, np.float32))]
    panel.png_bytes(figure.draw_page(rows, TINY, [('', '')]))

# Curves

def test_log_is_read_as_written(tmp_path):
    lines = ['{"step": 1, "loss": 2.0}', '{"step": 2, "loss": "nan"}', '{"step": 2, "eval/loss": 1.5}', '{"step": 3, "lo']
    (tmp_path / 'log.jsonl').write_text('\n'.join(lines))
    rows = curves.log_rows(tmp_path)
    assert [r['step'] for r in rows] == [1, 2] and rows[1]['eval/loss'] == 1.5
    assert np.isnan(curves.series(rows, 'loss')[1][1])
    p = curves.plot_loss(tmp_path)
    assert 'diverged at step 2' in p.alt
    check_html(p.html)
    with pytest.raises(ConfigError, match='no log.jsonl'): curves.plot_loss(tmp_path / 'nothing')

@given(st.integers(0, 1000), st.integers(30, 180))
def test_divergence_is_found_where_it_starts(seed, blow):
    steps = np.arange(200); noise = 0.01 * np.random.default_rng(seed).standard_normal(200)
    falls = 0.2 + np.exp(-steps / 10) + noise
    assert curves.diverged(steps, falls) is None
    found = curves.diverged(steps, falls + np.maximum(0, steps - blow) / 10)
    assert found is not None and abs(found - blow) < 15

# Live panel

class FakeLearner:
    "As much of a Learner as the callback asks for"
    class optimizer: steps = 100
    batch_size, steps_done, stopped, loader = 8, 0, None, None

def fitted(panel_, steps=50):
    learner = FakeLearner(); panel_.before_fit(learner)
    for s in range(1, steps + 1): panel_.after_step(learner, s, {'loss': 1 / s, 'loss/audio': 1 / s, 'loss/video': 2 / s, 'learning_rate': 1e-3, 'skipped': 0.0})
    return learner

def test_live_panel_redraws_twice_a_second(monkeypatch):
    drawn, clock = [], [0.0]
    monkeypatch.setattr(live.time, 'monotonic', lambda: clock[0])
    p = live.Live(); real = p.redraw
    p.redraw = lambda: (drawn.append(clock[0]), real())
    learner = FakeLearner(); p.before_fit(learner); drawn.clear()
    for s in range(1, 1001):   # 100 steps a second for 10 s
        clock[0] += 0.01
        p.after_step(learner, s, {'loss': 1.0, 'learning_rate': 1e-3})
    assert 15 <= len(drawn) <= 21

def test_live_panel_says_what_happened():
    p = live.Live(); learner = fitted(p)
    p.after_eval(learner, 50, {'eval/loss': 0.5, 'eval/loss/audio': 0.4, 'eval/loss/video': 0.6})
    check_html(live.status_html(p.status))
    assert list(p.status.curves) == ['loss/video', 'loss/audio'] and 'step 50 of 100' in live.status_text(p.status) and 'eval' not in live.status_line(p.status)
    learner.stopped = 'SIGINT'; p.after_fit(learner)
    assert 'stopped by SIGINT: fit() goes on from here' in live.status_text(p.status)
    p.on_error(learner, ValueError(NASTY))
    assert NASTY not in live.status_html(p.status) and html.escape(NASTY) in live.status_html(p.status)

def test_live_panel_stays_small():
    p = live.Live(); p.status = live.Status(100_000, 8)
    for s in range(0, 100_000, 50): p.status.add(s, {'loss': 1.0, 'loss/video': 1 / (s + 1), 'loss/audio': 2.0}, s)
    assert len(live.status_html(p.status)) < 12_000

# With a model

@pytest.fixture(scope='module')
def learner():
    from avmae_nb.train.pretrain import pretrain
    from avmae_nb.view import learner as _   # the methods
    return pretrain(TINY, callbacks=[live.Live()])

def test_check_disturbs_nothing(learner):
    before = [np.asarray(x).copy() for x in jax.tree.leaves(learner.state)]
    page = learner.check()
    assert all((a == np.asarray(b)).all() for a, b in zip(before, jax.tree.leaves(learner.state)))
    assert learner.steps_done == 0 and not learner.history
    tags = check_html(page.html)
    for words in ('Parameters', 'Tokens and masks', 'to finish', 'clips/s', 'compiling', 'random 0.8', 'Schedule', '409'): assert words in page.text, words
    assert sum(t == 'img' for t, _ in tags) == 2 and len(str(page._repr_mimebundle_())) < 200_000

def test_results_say_their_statistics_and_errors(learner, tmp_path):
    from avmae_nb.model.mae import AVMAE
    from avmae_nb.view import results
    batch = learner.evaluate.batches[0]
    p = learner.show_results(count=1)
    tags = check_html(p.html)
    assert 'video: pixels' in p.text and sum(t == 'audio' for t, _ in tags) == 2 and 'approximate' in p.html
    model = AVMAE(TINY.model.replace(normalise_targets=True), TINY.modalities, nnx.Rngs(0))
    masks = results.draw_masks(batch, TINY)
    recs = results.reconstructions(model, batch, TINY, masks)
    assert results.said_statistics(recs['video']) == 'normalised + true patch statistics (leaks)'
    assert [r.label.split('\n')[0] for r in results.result_rows(recs, TINY)] == ['original', 'masked', 'prediction,', 'reconstruction', 'pasted'] * 2
    hidden = results.over_values(np.asarray(recs['audio'].hidden), TINY.modalities['audio'])
    error = np.square(np.asarray(recs['audio'].prediction)[..., 0] - batch['audio'])
    assert np.allclose(results.masked_errors(recs['audio'], TINY.modalities['audio']), [e[h].mean() for e, h in zip(error, hidden)], rtol=1e-4)
    paths = learner.write_results(tmp_path, count=1)
    assert {p.suffix for p in paths.values()} == {'.png', '.html', '.txt', '.wav'} and all(p.stat().st_size > 100 for p in paths.values())

def test_missing_modality_is_said(learner):
    from avmae_nb.view.batch import show_batch, show_masks
    batch = {**learner.loader.batch_at(0), 'present/audio': np.array([False, True, True, True]), 'present/video': np.ones(4, bool), 'example_mask': np.float32([1, 1, 1, 0])}
    p = show_batch(batch, TINY, source=learner.source, players=0)
    assert 'missing' in p.text and len(p.text.splitlines()) == 6   # three clips: the padded one is left out
    assert 'audio 64 of 64' in show_masks(batch, TINY).alt

def test_mosaic_and_live_picture(learner):
    from avmae_nb.view.results import draw_masks, reconstructions
    recs = reconstructions(learner.model, learner.evaluate.batches[0], TINY, draw_masks(learner.evaluate.batches[0], TINY))
    image = live.mosaic(recs, TINY)
    assert image.dtype == np.uint8 and image.ndim == 3 and len(panel.webp_bytes(image)) < 80_000

def test_one_modality_alone():
    from avmae_nb.model.mae import AVMAE
    from avmae_nb.data.loader import Loader
    from avmae_nb.data.sources import open_source
    from avmae_nb.view.results import show_results
    for gone in ('video', 'audio'):
        config = TINY.replace(**{gone: None})
        batch = Loader(open_source(config.data), config).batch_at(0)
        p = show_results(AVMAE(config.model, config.modalities, nnx.Rngs(0)), batch, config, count=1)
        check_html(p.html); assert gone not in p.alt

# What is saved

@pytest.mark.parametrize('path', VIEW, ids=lambda p: p.stem)
def test_saved_pictures_have_alternative_texts_and_are_small(path):
    for cell in json.loads(path.read_text())['cells']:
        size = sum(len(json.dumps(o)) for o in cell.get('outputs', []))
        assert size < 150_000, f'a cell of {size} bytes'
        for o in cell.get('outputs', []):
            text = ''.join(o.get('data', {}).get('text/html', ''))
            if text: check_html(text)
            if 'image/png' in o.get('data', {}): assert 'text/html' in o['data'] or o.get('metadata', {}).get('image/png', {}).get('alt')
