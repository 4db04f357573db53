"The synthetic world: deterministic, true to its contacts, and without shortcuts from one modality or from mean features to the class"
import numpy as np, pytest
from hypothesis import given, strategies as st
from avmae_nb.config import ConfigError, Data, LogMel
from avmae_nb.data.logmel import logmel
from avmae_nb.data.synthetic import (BACKGROUND, CLASSES, HUES, MATERIALS, MODES, MOTIONS, Synthetic, pitch, place, render_audio, render_video, ring, scene, track, truth)

FRAMES = np.arange(25) / 12.5   # 2 s

@given(index=st.integers(0, 10**6), split=st.sampled_from(['train', 'eval']), world=st.sampled_from(['easy', 'hard', 'events']), start=st.floats(0, 8))
def test_deterministic_and_in_range(index, split, world, start):
    a, b = scene(3, split, index, world), scene(3, split, index, world)
    v, w = render_video(a, start + FRAMES[:4], 32), render_audio(a, start, 0.5)
    np.testing.assert_array_equal(v, render_video(b, start + FRAMES[:4], 32))
    np.testing.assert_array_equal(w, render_audio(b, start, 0.5))
    assert (v.shape, v.dtype, w.shape, w.dtype) == ((4, 32, 32, 3), np.uint8, (8000,), np.float32) and np.isfinite(w).all() and np.abs(w).max() <= 1
    facts = truth(a, start, FRAMES[:4], 0.5)
    assert CLASSES[facts['label']] == f"{facts['material']} {facts['motion']}"
    for body in facts['bodies']: assert (body['positions'] > 0).all() and (body['positions'] < 1).all() and ((body['contacts'] >= 0) & (body['contacts'] < 0.5)).all()

def test_splits_seeds_and_worlds_differ():
    clips = [render_video(scene(seed, split, i, world), FRAMES[:1], 16).tobytes() for seed in (0, 1) for split in ('train', 'eval') for world in ('easy', 'events') for i in range(3)]
    assert len(set(clips)) == len(clips)

def test_any_shape_and_rate():
    s = scene(0, 'train', 1)
    for side, times, rate in ((24, [0.0], 8000), (80, [9.5, 9.9, 12.0], 44100), (112, np.linspace(2, 2.5, 9), 22050)):
        assert render_video(s, times, side).shape == (len(times), side, side, 3)
        assert len(render_audio(s, times[0], 0.25, rate)) == round(0.25 * rate)

def test_pictures_agree_between_sizes():
    "The same scene, finer: block means of 128 pixels are near the 64-pixel picture"
    for i in range(6):
        s = scene(0, 'train', i)
        small, large = (render_video(s, FRAMES[:3], n).astype(float) for n in (64, 128))
        assert np.abs(large.reshape(3, 64, 2, 64, 2, 3).mean((2, 4)) - small).mean() < 2.5

@pytest.mark.parametrize('material', MATERIALS)
def test_pitch_is_heard(material):
    "The strongest frequency of a ring is its lowest mode, at the pitch that the size says"
    from dataclasses import replace
    for radius in (0.17, 0.22, 0.28):
        body = replace(scene(0, 'train', 0).bodies[0], material=material, radius=radius)
        wave = ring(body, 1.0)[800:]   # after the click
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 1 << 16))
        modes = pitch(body) * np.array(MODES[material].ratios)
        found = np.argmax(spectrum) * 16000 / (1 << 16)
        assert np.abs(found / modes - 1).min() < 0.02
        assert abs(pitch(body) - MODES[material].pitch * (radius / 0.2)**-0.8) < 1e-9

def test_a_contact_is_seen_and_heard_at_once():
    "Energy rises at the contact and the body touches what it hits; loudness follows the speed"
    from dataclasses import replace
    loud = []
    for i in range(60):
        s = scene(0, 'contact', i)
        s = replace(s, room=replace(s.room, noise=0.0), bodies=(replace(s.bodies[0], material='wood'),))
        wave, body = render_audio(s, 1.0, 2.0), truth(s, 1.0, FRAMES, 2.0)['bodies'][0]
        for t, speed in zip(body['contacts'], body['speeds']):
            n = round(t * 16000)
            if not 160 < n < len(wave) - 160: continue
            before, after = np.square(wave[n - 16:n]).sum(), np.square(wave[n:n + 16]).sum()
            assert after > 4 * before
            loud.append((np.log(speed), 0.5 * np.log(np.square(wave[n:n + 160]).sum())))
    assert np.corrcoef(np.array(loud).T)[0, 1] > 0.9

def test_every_motion_stays_in_the_room():
    for i in range(100):
        s = scene(1, 'train', i)
        b, r = s.bodies[0], s.room
        (x, y), eps = place(b, r, np.linspace(0, 10, 300))[0].T, 1e-6
        assert (x > r.left + b.radius - eps).all() and (x < r.right - b.radius + eps).all() and (y > r.ceiling + b.radius - eps).all() and (y < r.floor - b.radius + eps).all()
        assert np.diff(track(b, r, 10.0).times).min() > 0.12

def test_colour_and_label_frequencies():
    scenes = [scene(0, 'train', i) for i in range(1500)]
    assert np.bincount([s.label for s in scenes], minlength=16).min() > 60
    own = np.mean([abs((s.bodies[0].hue - HUES[s.bodies[0].material] + 0.5) % 1 - 0.5) < 0.07 for s in scenes])
    assert 0.35 < own < 0.45

def test_events_need_both_streams():
    "A second is labelled where the body is both seen and heard; elsewhere it is never both, and frames and sound obey"
    kinds = set()
    for i in range(40):
        s = scene(0, 'train', i, 'events')
        both, facts = np.array(s.seen) & np.array(s.heard), truth(s, 0.0, FRAMES, 10.0)
        assert (facts['labels'] == np.where(both, s.label, BACKGROUND)).all() and 2 <= both.sum() <= 8
        kinds |= {(a, b) for a, b in zip(s.seen, s.heard)}
        body = facts['bodies'][0]
        assert (body['contact_heard'] == np.array(s.heard)[body['contacts'].astype(int)]).all()
        hidden = [t for t in range(10) if not s.seen[t]]
        if len(hidden) > 1: assert np.abs(render_video(s, [hidden[0] + 0.2], 32).astype(int) - render_video(s, [hidden[1] + 0.7], 32)).max() < 20   # only noise moves
    assert kinds == {(True, True), (True, False), (False, True), (False, False)}

def test_source():
    source = Synthetic(Data(clips=20, world='events'), 'eval')
    assert (len(source), source.label(3), source.duration(0)) == (20, scene(0, 'eval', 3, 'events').label, 10.0)
    assert source.digest() == Synthetic(Data(clips=20, world='events'), 'eval').digest() != Synthetic(Data(clips=20, world='events', seed=1), 'eval').digest()
    with pytest.raises(ConfigError, match='easy'): scene(0, 'train', 0, 'esay')

# Probes: what a linear classifier reads from features that ignore order in time

def _features(scene, start):
    "Mean, deviation and mean change over time, of an 8 x 8 picture and of 64 mel bins"
    sound, picture = logmel(render_audio(scene, start, 2.0), LogMel(bins=64)), render_video(scene, start + FRAMES, 32) / np.float32(255)
    small = picture.reshape(len(FRAMES), 8, 4, 8, 4, 3).mean((2, 4)).reshape(len(FRAMES), -1)
    return [np.concatenate([x.mean(0), x.std(0), np.abs(np.diff(x, axis=0)).mean(0)]) for x in (small, sound)] + [sound]

def _ridge(x, y, classes, strength=0.3):
    "Held-out accuracy (last quarter) of a linear classifier"
    x, n = (x - x.mean(0)) / (x.std(0) + 1e-6), len(x) * 3 // 4
    w = np.linalg.solve(x[:n].T @ x[:n] + strength * n * np.eye(x.shape[1]), x[:n].T @ (np.eye(classes)[y[:n]] - 1 / classes))
    return (np.argmax(x[n:] @ w, 1) == y[n:]).mean()

def _timing(sound, facts):
    "The body at whose visible contacts the sound rises most: its motion, and the spectrum of the rise"
    best = (-1.0, 0, np.zeros(sound.shape[1]))
    for body in (b for b in facts['bodies'] if b['seen']):
        at = [k for k in (body['contacts'] * 100).astype(int) if 4 < k < len(sound) - 6]
        rises = np.array([sound[k:k + 4] - sound[k - 4:k - 1].mean(0) for k in at]).reshape(-1, 4, sound.shape[1])
        if len(at): best = max(best, (np.maximum(rises[:, :3].max(1), 0).mean(), MOTIONS.index(body['motion']), rises.mean((0, 1))), key=lambda b: b[0])
    return best[1:]

@pytest.fixture(scope='module', params=['easy', 'hard'])
def probes(request):
    "Accuracies on one world"
    clips = 900
    scenes, starts = [scene(0, 'probe', i, request.param) for i in range(clips)], np.arange(clips) * 0.37 % 7
    video, audio, sounds = zip(*[_features(s, t) for s, t in zip(scenes, starts)])
    video, audio, y = np.array(video), np.array(audio), np.array([s.label for s in scenes])
    motion, rise = zip(*[_timing(x, truth(s, t, FRAMES, 2.0)) for x, s, t in zip(sounds, scenes, starts)])
    both = np.concatenate([video, audio], 1)
    return request.param, dict(video=_ridge(video, y, 16), audio=_ridge(audio, y, 16), both=_ridge(both, y, 16), motion=_ridge(both, y // 4, 4), material=_ridge(both, y % 4, 4),
                               timed_motion=(np.array(motion) == y // 4).mean(), timed_material=_ridge(np.array(rise), y % 4, 4))

def test_no_shortcuts(probes):
    "Chance is 0.06. Easy: each modality is limited, both together are not. Hard: mean features stay near the 0.25 of knowing both pairs, timing solves it"
    world, p = probes
    print(world, {k: round(float(v), 3) for k, v in p.items()})
    if world == 'easy':
        assert 0.2 < p['video'] < 0.45 and 0.35 < p['audio'] < 0.65 and p['both'] > 0.6 and p['motion'] > 0.95 and p['material'] > 0.95, p
    else:
        assert p['video'] < 0.2 and p['audio'] < 0.3 and p['both'] < 0.34 and p['motion'] < 0.6 and p['material'] < 0.6, p
    assert p['timed_motion'] > 0.93 and p['timed_material'] > 0.8, p

def test_scenery_says_nothing():
    "Frames of an empty room cannot be told apart by the class of the body that is not in them"
    from dataclasses import replace
    scenes = [scene(0, 'probe', i) for i in range(900)]
    rooms = np.array([render_video(replace(s, bodies=()), [0.0], 16).astype(np.float32).ravel() for s in scenes])
    assert _ridge(rooms, np.array([s.label for s in scenes]), 16, 3.0) < 0.13
