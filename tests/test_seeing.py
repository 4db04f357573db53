"Pictures of predictions: every face, every kind of labels, names that are code stay text"
import dataclasses
from html.parser import HTMLParser
import numpy as np, pytest
from avmae_nb.config import ConfigError
from avmae_nb.data.sources import open_source
from avmae_nb.train.predictions import Predictions
from avmae_nb.view.answers import show_confused, show_predictions, show_worst, verdict, worst_rows
from avmae_nb.view.classes import plot_calibration, plot_class_ap, plot_confusion
from avmae_nb.view.localisation import show_localisation
from avmae_nb.view.panel import as_image
from toys import toy_config

CONFIG = toy_config()
SOURCE = open_source(CONFIG.data, 'eval')
NASTY = ('<script>alert(1)</script>', '"><img src=x onerror=alert(2)>', '$\\frac{1}{0}$ & <b>', 'a' * 300, '日本語 · ünï', '{{}}%s\n\t')

def predictions(kind='single', clips=6, seed=0):
    rng = np.random.default_rng(seed)
    shape = {'seconds': (clips, 10, 6)}.get(kind, (clips, 6))
    labels = {'single': rng.integers(6, size=clips), 'multi': (rng.random((clips, 6)) < 0.4).astype(np.float32), 'heads': rng.integers([2, 4], size=(clips, 2)), 'seconds': rng.integers(6, size=(clips, 10))}[kind]
    classes = {'verb': list(NASTY[:2]), 'noun': list(NASTY[2:])} if kind == 'heads' else {NASTY[0]: list(NASTY)}
    return Predictions(rng.normal(size=shape).astype(np.float32), labels, classes, kind, np.arange(clips), tuple(NASTY[i % 6] for i in range(clips)), ('audio', 'video'))

class Tags(HTMLParser):
    "Collects tags and checks that their attributes are ours"
    def __init__(self, text):
        super().__init__()
        self.seen, self.handlers = set(), []
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.handlers += [a for a, v in attrs if a.startswith('on') or (v or '').strip().lower().startswith('javascript:')]

ALLOWED = {'figure', 'figcaption', 'img', 'table', 'thead', 'tbody', 'tr', 'th', 'td', 'video', 'audio', 'details', 'summary', 'pre', 'div', 'style', 'input', 'label'}

def check(panel):
    "All three faces are there, and the HTML holds nothing but our tags"
    tags = Tags(panel.html)
    assert tags.seen <= ALLOWED and not tags.handlers, tags.seen - ALLOWED
    assert panel.text and panel.alt and np.asarray(as_image(panel.png)).std() > 5
    assert panel._repr_mimebundle_()[0]['text/plain'] == panel.text

DRAW = {'answers': lambda p: show_predictions(p, SOURCE, CONFIG, [0, 1], 1), 'worst': lambda p: show_worst(p, SOURCE, CONFIG, 2, 1), 'confused': lambda p: show_confused(p, SOURCE, CONFIG, 2, 1),
        'classes': plot_class_ap, 'confusion': plot_confusion, 'calibration': plot_calibration, 'localisation': lambda p: show_localisation(p, SOURCE, CONFIG, [0, 1], 1)}

@pytest.mark.parametrize('kind, names', [('single', ['answers', 'worst', 'confused', 'classes', 'confusion', 'calibration']), ('multi', ['answers', 'worst', 'classes', 'calibration']),
                                         ('heads', ['answers', 'classes', 'confusion', 'calibration']), ('seconds', ['localisation', 'confusion', 'calibration'])])
def test_names_that_are_code_stay_text(kind, names):
    for name in names: check(DRAW[name](predictions(kind)))

def test_each_head_can_be_asked_for():
    p = predictions('heads')
    assert 'noun' in plot_class_ap(p, 'noun').alt and 'noun' in plot_confusion(p, 'noun').alt
    with pytest.raises(ConfigError, match="did you mean 'noun'"): plot_class_ap(p, 'nou')

def test_the_wrong_picture_names_the_right_one():
    with pytest.raises(ConfigError, match='show_localisation'): show_predictions(predictions('seconds'), SOURCE, CONFIG)
    with pytest.raises(ConfigError, match='show_predictions'): show_localisation(predictions('single'), SOURCE, CONFIG)

def test_right_and_wrong_are_words():
    p = predictions()
    right = dataclasses.replace(p, logits=np.eye(6, dtype=np.float32)[p.labels] * 5, classes={'class': list('abcdef')})
    assert {verdict(right, i) for i in range(6)} == {'right'}
    wrong = dataclasses.replace(right, logits=np.eye(6, dtype=np.float32)[(p.labels + 1) % 6] * 5)
    assert {verdict(wrong, i) for i in range(6)} == {'wrong'}
    text = show_predictions(wrong, SOURCE, CONFIG, [0], 0).text
    assert 'wrong' in text and 'right' not in text.split('\n', 1)[1]

def test_worst_are_the_largest_losses():
    p = predictions(clips=30, seed=2)
    prob = p.probabilities()[np.arange(30), p.labels]
    assert worst_rows(p, 5).tolist() == np.argsort(prob, kind='stable')[:5].tolist()

def test_missing_modalities_are_shown_as_missing():
    class Silent(type(SOURCE)):
        def load(self, i, start, request): return dataclasses.replace(super().load(i, start, request), audio=None)
    check(show_predictions(predictions(), Silent(CONFIG.data, 'eval'), CONFIG, [0], 1))

def test_one_modality_alone():
    for keep in ('video', 'audio'):
        config = CONFIG.replace(**{m: None for m in ('video', 'audio') if m != keep})
        check(show_predictions(predictions(), SOURCE, config, [0], 1))
        check(show_localisation(predictions('seconds'), SOURCE, config, [0], 1))

def test_classes_without_clips_are_named():
    p = dataclasses.replace(predictions(), labels=np.array([0, 0, 1, 1, 2, 2]), classes={'class': list('abcdef')})
    panel = plot_class_ap(p)
    assert '3 classes have no clip and no score: d, e, f' in panel.text and '3 classes without a clip' in panel.alt

def test_pictures_can_be_saved(tmp_path):
    for suffix in ('.png', '.html', '.txt'): assert plot_confusion(predictions()).save(tmp_path/f'x{suffix}').stat().st_size > 50
