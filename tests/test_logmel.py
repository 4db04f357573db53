"The log-mel spectrogram: numpy, JAX and librosa agree, frames are counted exactly, and sound comes back"
import jax, numpy as np, pytest
from avmae_nb.config import Audio, LogMel, preset
from avmae_nb.data.logmel import denormalise, frames_of, hz_of_bin, invert, logmel, logmel_jax, mel_filters, normalise, plot_logmel, statistics

CONFIGS = [LogMel(), LogMel(scale='htk'), LogMel(norm='none'), LogMel(fmin=60, fmax=7600, bins=64), LogMel(power=1.0), LogMel(window=320, hop=80, fft=512), LogMel(rate=24000, window=600, hop=240, fft=1024, fmax=12000)]

def sound(seconds=2.0, rate=16000, seed=0):
    "A chirp, noise bursts and silence"
    t, rng = np.arange(round(seconds * rate)) / rate, np.random.default_rng(seed)
    wave = 0.3 * np.sin(2 * np.pi * (100 * t + 800 * t ** 2)) + 0.2 * rng.normal(size=len(t)) * (np.sin(2 * np.pi * 3 * t) > 0.7)
    return (wave * (t < 0.8 * seconds)).astype(np.float32)

def referee(wave, c):
    librosa = pytest.importorskip('librosa')
    front = (c.fft - c.window) // 2
    padded = np.pad(wave, (front, frames_of(len(wave), c) * c.hop - len(wave) + c.fft - c.hop - front))
    mel = librosa.feature.melspectrogram(y=padded, sr=c.rate, n_fft=c.fft, hop_length=c.hop, win_length=c.window, window='hamming', center=False, power=c.power, n_mels=c.bins, fmin=c.fmin, fmax=c.fmax, htk=c.scale == 'htk', norm=None if c.norm == 'none' else c.norm)
    return np.log(mel + c.offset).T

@pytest.mark.parametrize('c', CONFIGS, ids=repr)
def test_three_ways_agree(c):
    wave = sound(rate=c.rate)
    a, b, r = logmel(wave, c), np.asarray(jax.jit(logmel_jax, static_argnums=1)(wave, c)), referee(wave, c)
    assert a.shape == b.shape == r.shape == (round(2.0 * c.rate / c.hop), c.bins) and a.dtype == b.dtype == np.float32
    close = 8e-5 if c in CONFIGS[:2] else 2e-4   # filters without area norm or power multiply the rounding of the FFT
    assert max(np.abs(a - r).max(), np.abs(b - r).max(), np.abs(a - b).max()) < close

@pytest.mark.parametrize('c', CONFIGS[:4], ids=repr)
def test_filters_are_librosas(c):
    librosa = pytest.importorskip('librosa')
    assert np.abs(mel_filters(c) - librosa.filters.mel(sr=c.rate, n_fft=c.fft, n_mels=c.bins, fmin=c.fmin, fmax=c.fmax, htk=c.scale == 'htk', norm=None if c.norm == 'none' else c.norm)).max() < 1e-6

def test_only_htk_leaves_a_filter_empty():
    assert (mel_filters(LogMel()).sum(1) > 0).all() and (mel_filters(LogMel(scale='htk')).sum(1) == 0).sum() == 1

@pytest.mark.parametrize('seconds', [0.16, 1.28, 2.5, 8.0, 10.0])
def test_a_hundred_frames_a_second(seconds):
    audio = Audio(seconds=seconds)
    assert logmel(np.zeros(round(seconds * 16000))).shape == (audio.frames, 128) == (round(100 * seconds), 128)

def test_a_frame_looks_at_its_own_25_ms():
    for at in (0, 50, 99):
        wave = np.zeros(16000, np.float32)
        wave[at * 160 + 200 if at < 99 else 15999] = 1.0
        loud = np.flatnonzero(logmel(wave).max(1) > np.log(1e-4) + 0.01)
        assert loud.tolist() == [k for k in range(100) if 160 * k <= np.flatnonzero(wave)[0] < 160 * k + 400]

def test_tone_lands_in_its_bin():
    for hz in (440, 1000, 3000, 6000):
        x = logmel(0.5 * np.sin(2 * np.pi * hz * np.arange(16000) / 16000))
        assert abs(hz_of_bin()[x[50].argmax()] - hz) < 80

def test_batches_and_gradients_in_jax():
    waves = np.stack([sound(seed=k) for k in range(3)])
    assert np.abs(np.asarray(logmel_jax(waves))[1] - logmel(waves[1])).max() < 8e-5
    assert np.isfinite(np.asarray(jax.grad(lambda w: logmel_jax(w).sum())(waves[0] + 1e-3))).all()

def test_odd_lengths_and_silence_are_finite():
    for n in (1, 159, 161, 400, 12345): assert np.isfinite(logmel(np.zeros(n))).all()
    assert np.isfinite(logmel(1e6 * np.ones(1600))).all()

def test_normalisation_and_statistics():
    x = [logmel(sound(seed=k)) for k in range(3)]
    mean, std = statistics(iter(x))
    assert (mean, std) == pytest.approx((np.mean(x), np.std(x)), abs=1e-3)
    c = LogMel(mean=mean, std=std)
    y = normalise(np.stack(x), c)
    assert abs(y.mean()) < 1e-3 and abs(y.std() - 1) < 1e-3 and np.abs(denormalise(y, c) - x).max() < 1e-4
    assert preset('vggsound').audio.logmel.mean == 0   # the paper's pre-training does not normalise

def test_inverted_sound_has_the_same_spectrogram():
    pytest.importorskip('librosa')
    x = logmel(sound())
    wave = invert(x)
    assert wave.shape == (32000,) and wave.dtype == np.float32 and np.isfinite(wave).all()
    assert np.corrcoef(x.ravel(), logmel(wave).ravel())[0, 1] > 0.95
    assert (invert(x) == wave).all()   # the phase is made up the same way each time
    rough = x + np.random.default_rng(0).normal(size=x.shape).astype(np.float32)   # a bad reconstruction can be heard too
    assert np.isfinite(invert(rough[:50])).all() and np.isfinite(invert(np.full((20, 128), -30.0))).all()

def test_axes_are_hz_and_seconds():
    import matplotlib.pyplot as plt
    ax = plot_logmel(logmel(sound()))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ('seconds', 'Hz') and [t.get_text() for t in ax.get_yticklabels()][:2] == ['500', '1000'] and ax.get_xlim() == (0, 2.0)
    plt.close('all')
