"""Thousands of damaged media files through the loader's own way of reading, damaged label files, configurations, run folders and weights through theirs, and nonsense as the parameters of notebooks.

    python bench/fuzz.py --files 4000 --texts 2000 --parameters 300 --out bench/fuzz.json

Every file is made from a real clip by `tests/mutators.py` (bit flips, truncation, header edits, shuffled boxes, absurd durations, 65,535 x 65,535 frames, timestamps backwards, ...) in several containers, from a seed, so that
each can be made again. Wanted: each is decoded (what is there, finite, in the shape asked for) or refused with a reason; never another exception, a crash of the run, or a clip beyond its deadline. `crashed` and `too slow` are those
that the decoding process died of, as a clip of the report. Memory: the peak of the decoding process."""
import argparse, collections, itertools, json, os, random, re, sys, tempfile, time
from pathlib import Path
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]
import numpy as np
import mutators
from avmae_nb.data import guard
from avmae_nb.data.media import MediaError, Request
from avmae_nb.data.sources import Files, Item

REQUEST = Request(frames=4, interval=0.16, short_side=64, seconds=2.0)

def remux(path, to, kinds=('video', 'audio'), seconds=3.0):
    "The first seconds in another container, not encoded again"
    import av
    with av.open(str(path)) as inside, av.open(str(to), 'w') as out:
        new = {s.index: out.add_stream_from_template(s) for s in inside.streams if s.type in kinds}
        for p in inside.demux(*[s for s in inside.streams if s.index in new]):
            if p.dts is None or float(p.dts * p.time_base) > seconds: continue
            p.stream = new[p.stream.index]
            out.mux(p)

def contained(clip, to):
    "As `remux`, where the container takes these codecs"
    import av
    try: remux(clip, to)
    except av.FFmpegError: to.unlink(missing_ok=True)

def originals(folder: Path) -> dict[str, bytes]:
    "The two real clips as they are and in other containers, sounds, and oddities"
    from avmae_nb.data.sources import clips_folder
    from avmae_nb.data.write import write_clip
    import soundfile
    out = {}
    for clip in clips_folder().glob('*.mp4'):
        for suffix in ('mp4', 'mkv', 'ts', 'mov', 'avi', 'flv'): contained(clip, folder / f'{clip.stem}.{suffix}')
        remux(clip, folder / f'{clip.stem}.m4a', ('audio',)); remux(clip, folder / f'{clip.stem}-mute.mp4', ('video',))
    frames, tone = np.random.default_rng(0).integers(0, 256, (25, 48, 64, 3), np.uint8), np.sin(np.arange(32000) / 6).astype(np.float32)
    write_clip(folder / 'noise.webm', frames, tone, codecs=('libvpx', 'libopus'), rate=16000)
    soundfile.write(folder / 'tone.wav', tone, 16000); soundfile.write(folder / 'tone.flac', tone, 16000); soundfile.write(folder / 'tone.ogg', tone, 16000)
    soundfile.write(folder / 'many.wav', np.zeros((96000, 64), np.float32), 192000)   # 64 channels at 192 kHz
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}

def peak_memory() -> int:
    "MB, the most that a decoding process has held"
    best = 0
    for d in guard._idle:
        try: best = max(best, int(re.search(r'VmHWM:\s+(\d+)', Path(f'/proc/{d.process.pid}/status').read_text())[1]) // 1024)
        except (OSError, TypeError): pass
    return best

def outcome(folder, name, rng, deadline=20.0) -> str:
    "What became of one file, as the loader would see it"
    try: clip = guard.guarded(Files(folder, [Item(name)]), 'read', 0, REQUEST, rng, deadline=deadline)
    except MediaError as e:
        text = str(e)
        return 'crashed' if 'crashed' in text else 'too slow' if 'longer than' in text else 'memory' if 'GiB' in text else 'refused: ' + reason(text, name)
    except Exception as e: return f'BUG: {type(e).__name__}: {e}'[:300]
    wrong = [w for w, bad in (('no finite sound', clip.audio is not None and not np.isfinite(clip.audio).all()), ('length of sound', clip.audio is not None and len(clip.audio) != REQUEST.samples),
                              ('frames', clip.video is not None and (len(clip.video) != REQUEST.frames or clip.video.dtype != np.uint8 or min(clip.video.shape[1:3]) < 1)), ('nothing', clip.video is None and clip.audio is None)) if bad]
    return f'BUG: {", ".join(wrong)}' if wrong else 'decoded' + (f', flagged {" ".join(sorted(set(clip.flags)))}' if clip.flags else '')

def reason(text, name) -> str:
    "A message without names and numbers, to count by"
    return re.sub(r'\d[\d,.]*', 'N', text.rpartition(name)[2].strip(': '))[:90]

def media(files: int, seed: int, told=lambda *a: None) -> dict:
    "Counts of what became of so many files"
    by, reasons, slow, bugs, seen, began = collections.defaultdict(collections.Counter), collections.Counter(), [], [], 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / 'good').mkdir()
        good = originals(Path(folder) / 'good')
        for name, data in good.items():
            (Path(folder) / name).write_bytes(data)
            found = outcome(folder, name, np.random.default_rng(0))
            if not found.startswith('decoded'): bugs.append(f'{name} untouched: {found}')
        for k in range(files):
            r = random.Random(f'{seed}/{k}')
            name = r.choice(list(good))
            how, data = mutators.mutate(good[name], r)
            path = Path(folder) / f'{k}{Path(name).suffix}'
            path.write_bytes(data)
            start = time.monotonic()
            found = outcome(folder, path.name, np.random.default_rng(k))
            took = time.monotonic() - start
            path.unlink()
            kind = found.split(':')[0].split(',')[0]
            by[how][kind] += 1; reasons[found if kind == 'refused' else found.split(':')[0]] += 1; seen = max(seen, peak_memory())
            if kind in ('BUG', 'crashed', 'too slow', 'memory'): bugs.append(f'{seed}/{k} {name} {how}: {found}'); told(bugs[-1])
            slow = sorted([*slow, (round(took, 2), f'{seed}/{k} {name} {how}')], reverse=True)[:5]
            if k % 500 == 499: told(f'{k + 1} files, {time.monotonic() - began:.0f} s, {seen} MB')
    total = collections.Counter()
    for c in by.values(): total.update(c)
    return {'files': files, 'total': dict(total), 'by mutator': {k: dict(v) for k, v in by.items()}, 'reasons': dict(reasons.most_common(60)), 'slowest, s': slow, 'peak memory of a decoding process, MB': seen, 'to look at': bugs, 'seconds': round(time.monotonic() - began)}

# Texts and weights: in this process, since all of it is Python

LABELS = b'file,label,split,start,end\nlaunch.mp4,rocket,train,0,3\nbbb.mp4,"animals, film",eval,1,2\n'
EPIC = b'narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\nP01_01_0,P01,launch,00:00:00.1,00:00:00.14,00:00:02.37,8,202,open door,open,3,door,3,[\'door\'],[3]\n'

def readers(folder: Path) -> dict:
    "By kind of file: (file name, content, how it is read, errors that are answers)"
    import toys
    from flax import serialization
    from safetensors.numpy import save
    from avmae_nb.config import ConfigError, Data, Pretrain
    from avmae_nb.data.sources import clips_folder, open_source
    from avmae_nb.interop import folder as stored, released, vit
    from avmae_nb.train.callbacks import read_log
    from avmae_nb.data.report import Report
    from avmae_nb.train.checkpoint import CheckpointError, RunError, read_config
    from avmae_nb.train.pretrain import build_model, load, pretrain
    said, model = (ConfigError, MediaError, RunError, CheckpointError, released.WeightsError), build_model(toys.toy_config())
    opened = lambda path, **kw: open_source(Data(path=str(clips_folder()), labels=str(path), **kw))
    exported = stored.save(model, folder / 'exported', toys.TOY.inputs)
    arrays = {'a/kernel': np.ones((4, 4), np.float32), 'b': np.zeros(3, np.float32)}
    np.savez(folder / 'good.npz', **arrays)
    pretrain(toys.toy_config(**{'train.steps': 1, 'train.eval_clips': 0}), folder / 'run').fit()
    return {'labels.csv': (folder / 'labels.csv', LABELS, lambda p: opened(p, source='folder'), said),
            'EPIC_100_train.csv': (folder / 'EPIC_100_train.csv', EPIC, lambda p: opened(p, source='epic'), said),
            'vggsound.csv': (folder / 'vggsound.csv', b'launch,0,"rocket, loud",train\nbbb,1,film,test\n', lambda p: opened(p, source='vggsound'), said),
            'Annotations.txt': (folder / 'Annotations.txt', b'Category&VideoID&Quality&StartTime&EndTime\nRocket&launch&good&0&3\nFilm&bbb&good&1&2\n', lambda p: opened(p, source='ave'), said),
            'config.yaml': (folder / 'config.yaml', (folder / 'run/config.yaml').read_bytes(), Pretrain.load, said),
            'run config.yaml': (folder / 'run/config.yaml', (folder / 'run/config.yaml').read_bytes(), lambda p: read_config(p.parent, Pretrain), said),
            'run format.json': (folder / 'run/format.json', (folder / 'run/format.json').read_bytes(), lambda p: read_config(p.parent, Pretrain), said),
            'run log.jsonl': (folder / 'run/log.jsonl', (folder / 'run/log.jsonl').read_bytes(), lambda p: read_log(p.parent), ()),
            'run bad_clips.jsonl': (folder / 'run/bad_clips.jsonl', b'{"index": 1, "name": "a", "problem": "silent", "message": "m"}\n', lambda p: str(Report(p)), ()),
            'exported config.yaml': (exported / 'config.yaml', (exported / 'config.yaml').read_bytes(), lambda p: stored.load(p.parent), said),
            'model.safetensors': (exported / 'model.safetensors', (exported / 'model.safetensors').read_bytes(), lambda p: stored.load(p.parent), said),
            'weights.npz': (folder / 'weights.npz', (folder / 'good.npz').read_bytes(), vit._arrays, said),
            'weights.safetensors': (folder / 'weights.safetensors', save(arrays), vit._arrays, said),
            'released checkpoint': (folder / 'checkpoint', serialization.msgpack_serialize({'params': arrays}), released.read_checkpoint, said)}

def texts(count: int, seed: int, told=lambda *a: None) -> dict:
    "Damaged files of text and weights: read, or refused with one of the errors that are meant for users"
    import warnings
    warnings.simplefilter('ignore')
    total, bugs, slow, began = collections.defaultdict(collections.Counter), [], 0.0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        kinds = readers(Path(folder))
        for k in range(count):
            r = random.Random(f'{seed}/{k}')
            kind = list(kinds)[k % len(kinds)]
            path, good, read, allowed = kinds[kind]
            binary = kind.endswith(('.npz', '.safetensors', 'checkpoint'))
            path.write_bytes((mutators.mutate(good, r)[1] if binary else mutators.text(good, r)) or b'\0')
            start = time.monotonic()
            try: read(path); what = 'read'
            except allowed: what = 'refused'
            except Exception as e: what = 'BUG'; bugs.append(f'{seed}/{k} {kind}: {type(e).__name__}: {str(e)[:200]}'); told(bugs[-1])
            slow = max(slow, time.monotonic() - start)
            total[kind][what] += 1
            path.write_bytes(good)
    return {'files': count, 'by kind': {k: dict(v) for k, v in total.items()}, 'to look at': bugs, 'slowest, s': round(slow, 2), 'seconds': round(time.monotonic() - began)}

# Parameters of notebooks

def notebook(path: Path) -> tuple[str, list[str], list[str]]:
    "Imports, parameters by line, and the cells after them up to the last that trains"
    cells = [(''.join(c['source']), c['metadata'].get('tags', ())) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    at = next(k for k, (_, tags) in enumerate(cells) if 'parameters' in tags)
    after = list(itertools.takewhile(lambda s: 'Popen' not in s, (s for s, _ in cells[at + 1:])))   # no other processes
    return '\n'.join(s for s, _ in cells[:at] if 'pip install' not in s), cells[at][0].splitlines(), after[:max((k for k, s in enumerate(after) if '.fit(' in s), default=3) + 1]

def parameters(count: int, seed: int, told=lambda *a: None) -> dict:
    "Tutorials whose parameters are nonsense, each cell run as Jupyter runs it: it works, or ends in an error that is meant for users. Training itself is left out"
    import warnings
    from unittest import mock
    from execnb.shell import CaptureShell
    from avmae_nb.cli import told as meant
    from avmae_nb.train.learner import Learner
    said = lambda e: meant(e) and getattr(e, 'filename', True)   # of the file system: if it names the file
    books = {p.stem: notebook(p) for p in sorted((ROOT / 'nbs/tutorials').glob('*.ipynb'))}
    total, bugs, shells, began, home = collections.defaultdict(collections.Counter), [], {}, time.monotonic(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Learner, 'fit', lambda self, *a, **k: self), warnings.catch_warnings():
        warnings.simplefilter('ignore'); os.chdir(folder)
        try:
            for k in range(count):
                r = random.Random(f'{seed}/{k}')
                name = list(books)[k % len(books)]
                imports, given, cells = books[name]
                which = r.choice(given).split('=')[0].strip()
                wrong = mutators.value(r)
                if name not in shells: shells[name] = CaptureShell(mpl_format=None)   # one a notebook: each has a thread of its own
                shell = shells[name]
                shell.run(imports + '\n' + '\n'.join(given))
                shell.user_ns[which] = wrong
                if which != 'fast': shell.user_ns['fast'] = which not in ('run', 'steps')
                what = 'works'
                for cell in cells:
                    shell.exc = None
                    shell.run(cell)
                    if shell.exc is not None: what = 'refused' if said(shell.exc) else 'BUG'; break
                if what == 'BUG': bugs.append(f'{seed}/{k} {name} {which}={wrong!r}: {type(shell.exc).__name__}: {str(shell.exc)[:200]}'); told(bugs[-1])
                total[f'{name}, {which}'][what] += 1
        finally: os.chdir(home)
    return {'values': count, 'by parameter': {k: dict(v) for k, v in sorted(total.items())}, 'to look at': bugs, 'seconds': round(time.monotonic() - began)}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--files', type=int, default=500); p.add_argument('--texts', type=int, default=500); p.add_argument('--parameters', type=int, default=50); p.add_argument('--seed', type=int, default=0); p.add_argument('--out', type=Path)
    args, told = p.parse_args(), lambda *a: print(*a, flush=True)
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    out = {'seed': args.seed, 'parameters of notebooks': parameters(args.parameters, args.seed, told) if args.parameters else None, 'texts and weights': texts(args.texts, args.seed, told) if args.texts else None, 'media': media(args.files, args.seed, told) if args.files else None}
    print(json.dumps(out, indent=1))
    if args.out: args.out.write_text(json.dumps(out, indent=1) + '\n')

if __name__ == '__main__': main()
