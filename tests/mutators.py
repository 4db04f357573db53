"Damage done to files on purpose: what interrupted downloads, bad disks and hostile uploads look like. Each mutator is `(bytes, random.Random) -> bytes`"
import random, struct

EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 100_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
NAMES = (b'mvhd', b'mdhd', b'tkhd', b'elst', b'stts', b'ctts', b'stsc', b'stsz', b'stco', b'stss', b'avc1', b'avcC', b'mp4a', b'esds', b'hdlr')

def flip_bits(data: bytes, r: random.Random) -> bytes:
    "1 to 300 bits anywhere"
    out = bytearray(data)
    for _ in range(int(10 ** r.uniform(0, 2.5))): out[r.randrange(len(out))] ^= 1 << r.randrange(8)
    return bytes(out)

def flip_header(data: bytes, r: random.Random) -> bytes:
    "1 to 20 bytes of the first and the last 4 kB"
    out = bytearray(data)
    for _ in range(r.randint(1, 20)): out[r.choice((r.randrange(min(4096, len(out))), -1 - r.randrange(min(4096, len(out)))))] = r.randrange(256)
    return bytes(out)

def truncate(data: bytes, r: random.Random) -> bytes: return data[:r.choice((r.randrange(len(data)), r.randrange(min(2000, len(data))), len(data) - r.randint(1, min(500, len(data) - 1))))]

def boxes(data: bytes, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    "(start, end) of the boxes of an MP4 file between two places"
    out, end = [], len(data) if end is None else end
    while start + 8 <= end:
        size = struct.unpack('>I', data[start:start + 4])[0]
        stop = end if size == 0 else start + size
        if size == 1 or stop <= start + 7 or stop > end: break
        out.append((start, stop)); start = stop
    return out

def shuffle_boxes(data: bytes, r: random.Random) -> bytes:
    "Boxes in another order, one lost or doubled; files of other kinds: blocks of 512 bytes"
    found = boxes(data)
    if len(found) > 1 and r.random() < 0.6:
        parts = [data[a:b] for a, b in found]
    else:   # inside the largest box that is not the media itself
        moov = next(((a, b) for a, b in found if data[a + 4:a + 8] == b'moov'), None)
        if moov:
            inner = boxes(data, moov[0] + 8, moov[1])
            parts = [data[a:b] for a, b in inner]; r.shuffle(parts)
            return data[:moov[0] + 8] + b''.join(parts) + data[moov[1]:]
        parts = [data[k:k + 512] for k in range(0, len(data), 512)]
    how = r.choice(('order', 'lost', 'doubled'))
    if how == 'order': r.shuffle(parts)
    elif how == 'lost': parts.pop(r.randrange(len(parts)))
    else: parts.insert(r.randrange(len(parts)), r.choice(parts))
    return b''.join(parts) or b'\0'

def extreme_number(data: bytes, r: random.Random) -> bytes:
    "A four-byte number of a header becomes 0, 100,000, or as large as can be: durations, sizes, counts, rates, timestamps"
    out, places = bytearray(data), [m for n in NAMES for m in _places(data, n)]
    for _ in range(r.randint(1, 4)):
        at = r.choice(places) + 4 + 4 * r.randrange(24) if places and r.random() < 0.85 else r.randrange(min(2048, len(out)))
        if at + 4 <= len(out): out[at:at + 4] = struct.pack(r.choice(('>I', '<I')), r.choice(EXTREMES))
    return bytes(out)

def _places(data, name):
    at = data.find(name)
    while at >= 0:
        yield at
        at = data.find(name, at + 1)

def huge_frames(data: bytes, r: random.Random) -> bytes:
    "100,000 x 100,000 pixels, in the track header and in the sample description"
    out = bytearray(data)
    for at in _places(data, b'tkhd'): out[at + 80:at + 88] = struct.pack('>II', 100_000 << 16 & 0xFFFFFFFF, 100_000 << 16 & 0xFFFFFFFF)
    for at in _places(data, b'avc1'): out[at + 28:at + 32] = struct.pack('>HH', 65535, 65535)
    return bytes(out[:len(data)])

def absurd_duration(data: bytes, r: random.Random) -> bytes:
    "Headers that claim years"
    out = bytearray(data)
    for name, at in ((b'mvhd', 20), (b'mdhd', 20), (b'tkhd', 24)):
        for place in _places(data, name):
            if r.random() < 0.7: out[place + at:place + at + 4] = struct.pack('>I', r.choice((0, 0x7FFFFFFF, 0xFFFFFFFF, r.randrange(2**32))))
    for place in _places(data, b'stts'):
        if r.random() < 0.3: out[place + 16:place + 20] = struct.pack('>I', r.choice((0x7FFFFFFF, 0xFFFFFF00, 0)))
    return bytes(out[:len(data)])

def backwards(data: bytes, r: random.Random) -> bytes:
    "Timestamps that run backwards, jump or stand: the tables of times and composition offsets"
    out = bytearray(data)
    for name in (b'stts', b'ctts', b'elst'):
        for place in _places(data, name):
            for k in range(2, 24):
                if r.random() < 0.4 and place + 4 * k + 8 < len(out): out[place + 4 * k + 4:place + 4 * k + 8] = struct.pack('>i', r.choice((-1, -512, -100_000, 0, 2**31 - 1, r.randrange(-2**31, 2**31))))
    return bytes(out)

def blocks(data: bytes, r: random.Random) -> bytes:
    "A stretch of zeros or noise, a stretch cut out, or put in"
    a, n = r.randrange(len(data)), int(2 ** r.uniform(2, 15))
    noise = bytes(n) if r.random() < 0.5 else r.randbytes(n)
    return r.choice((data[:a] + noise[:len(data) - a] + data[a + n:], (data[:a] + data[a + n:]) or b'\0', data[:a] + noise + data[a:]))

MUTATORS = {f.__name__: f for f in (flip_bits, flip_header, truncate, shuffle_boxes, extreme_number, huge_frames, absurd_duration, backwards, blocks)}

def mutate(data: bytes, r: random.Random) -> tuple[str, bytes]:
    "Names of one or two mutators, and what they made"
    names = r.choices(list(MUTATORS), k=1 + (r.random() < 0.25))
    for n in names: data = MUTATORS[n](data, r) if data else data
    return names[0], data

def text(data: bytes, r: random.Random) -> bytes:
    "Damage to a file of text: its bytes, its lines, and words that parsers choke on"
    words = (b'\0', b'\xff\xfe', b'"', b"'", b'{', b'[' * 3000, b'&a', b'*a', b'!!python/object/apply:os.system ["true"]', b'nan', b'1e999', b'-1', b'9' * 400, b'../../etc/passwd', b'\r', b'\n\n', '\u202e'.encode(), b': ', b'- ', b',' * 40, b'2001-99-99', b'0x', b'~', b'<script>')
    how = r.randrange(5)
    if how == 0: return flip_bits(data, r)
    if how == 1: return truncate(data, r) if len(data) > 1 else data
    lines = data.split(b'\n')
    if how == 2: r.shuffle(lines); return b'\n'.join(lines)
    if how == 3: k = r.randrange(len(lines)); lines[k] = r.choice(words) + lines[k]; return b'\n'.join(lines)
    a = r.randrange(len(data) + 1)
    return data[:a] + r.choice(words) + data[a + r.randrange(20):]

def value(r: random.Random):
    "What a notebook's parameter is when somebody's script, or papermill's reading of a command line, has gone wrong"
    odd = ''.join(r.choice('ab ./\\~:@%"\'<>&\0\n\u202e\ud800é字') for _ in range(r.randint(1, 12)))
    return r.choice((None, True, False, '', ' ', 'yes', 'False', 'nan', '10', '1e3', '-1', odd, odd, 'x' * 300, 'no/such/folder', '/proc/nothing', '/dev/null/x', '/etc/hostname', '/etc', '~nobody', 'gs://bucket/run', 'https://example.org/a',
                     0, -1, -0.0, 0.5, 1e-9, 1e9, -1e300, 10 ** 30, float('nan'), float('inf'), 3 + 4j, b'run', [], [3], (1, 2), {}, {'steps': 3}, object(), r.uniform(-1e6, 1e6), r.randint(-10 ** 6, 0)))
