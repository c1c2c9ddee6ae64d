"""facezoo's RecordIO and its MXNet stand-in beside the real MXNet 1.9.1: do they write the same bytes and read the same pixels?

    python3.11 -m venv mx && mx/bin/pip install mxnet==1.9.1 numpy==1.23.5 opencv-python-headless==4.9.0.80
    python benchmarks/mxnet_interop.py --mxnet mx/bin/python                    compare; writes results/mxnet_interop.json
    python benchmarks/mxnet_interop.py --mxnet mx/bin/python --record           renew the fixtures in tests/data/mxnet
    python benchmarks/mxnet_interop.py --mxnet mx/bin/python --faces faces.zip  decode real JPEGs as well

The half of this file below "inside MXNet's interpreter" runs in that interpreter and imports nothing of facezoo.

Needs: mx/bin/python (MXNet 1.9.1 in an environment of its own)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from command_line import command_line

MAGIC = struct.pack('<I', 0xCED7230A)
ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / 'tests' / 'data' / 'mxnet'


def noise(length: int, seed: int) -> bytes:
    """The same bytes in every version of every library."""
    blocks = (hashlib.sha256(f'{seed} {i}'.encode()).digest() for i in range(length // 32 + 1))
    return b''.join(blocks)[:length].replace(MAGIC, b'\0\1\2\3')


def cases() -> list[tuple[float | list[float], int, bytes]]:
    """Label (a list is a label vector), id and image of each record. Their payloads begin with 24 bytes of header."""
    rows: list[tuple[float | list[float], int, bytes]] = [([40.0, 46.0], 0, b'')]  # InsightFace's header record
    rows += [(float(n), n, noise(length, n)) for n, length in enumerate((0, 1, 2, 3, 4, 5, 255, 4096), 1)]
    rows += [(1e-3, 20, b'x'), (-1.0, 21, b'y'), (16777217.0, 22, b'z'), (3.0, 2**40, b'id beyond 32 bits')]
    rows += [([7.0], 30, noise(9, 30)), ([1.0, 2.0, 3.0], 31, noise(9, 31)), ([0.1] * 100, 32, b'')]
    around = [(0, 0), (0, 5), (4, 4), (8, 0), (1, 3), (2, 2), (3, 1), (4, 3), (6, 6)]  # bytes before and behind the magic word
    rows += [(float(n), 40 + n, noise(a, n) + MAGIC + noise(b, 99 + n)) for n, (a, b) in enumerate(around)]
    rows += [(0.0, 60, MAGIC * 3), (0.0, 61, noise(4, 61) + MAGIC + noise(4, 62) + MAGIC + noise(8, 63)),
             (0.0, 62, MAGIC[:3]), (0.0, 63, noise(4, 64) + MAGIC[:2]), (0.0, 64, b'\x0a' + MAGIC * 2 + b'\xce')]
    return rows


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- inside MXNet's interpreter

def inside(folder: Path) -> None:
    """Write the cases with MXNet, read what facezoo wrote, decode the images; answers go to ``folder/mxnet.json``."""
    import mxnet as mx
    import numpy as np
    writer = mx.recordio.MXIndexedRecordIO(str(folder / 'mx.idx'), str(folder / 'mx.rec'), 'w')
    for key, (label, number, image) in enumerate(cases()):
        writer.write_idx(key, mx.recordio.pack(mx.recordio.IRHeader(0, label, number, 0), image))
    writer.close()
    answer = {'mxnet': mx.__version__, 'numpy': np.__version__, 'records': [], 'pixels': {}, 'short': {}}
    reader = mx.recordio.MXIndexedRecordIO(str(folder / 'fz.idx'), str(folder / 'fz.rec'), 'r')
    for key in reader.keys:
        header, image = mx.recordio.unpack(reader.read_idx(key))
        label = np.asarray(header.label, np.float32).ravel().tolist()
        answer['records'].append([key, header.flag, label, header.id, digest(image)])
    for path in sorted((folder / 'images').iterdir()):
        pixels = mx.image.imdecode(path.read_bytes())
        short = mx.image.resize_short(pixels, 112)
        answer['pixels'][path.name] = [list(pixels.shape), digest(pixels.asnumpy().tobytes())]
        answer['short'][path.name] = [list(short.shape), digest(short.asnumpy().tobytes())]
    subprocess.run([sys.executable, os.path.join(os.path.dirname(mx.__file__), 'tools', 'im2rec.py'), '--list', '--recursive',
                    str(folder / 'im2rec'), str(folder / 'tree')], check=True)
    subprocess.run([sys.executable, os.path.join(os.path.dirname(mx.__file__), 'tools', 'im2rec.py'), '--pass-through',
                    str(folder / 'im2rec'), str(folder / 'tree')], check=True)
    (folder / 'mxnet.json').write_text(json.dumps(answer))


# --- on facezoo's side

def write_ours(folder: Path) -> None:
    from plugins.data.recordio import RecordHeader, RecordWriter, pack
    with RecordWriter(folder / 'fz.rec') as writer:
        for key, (label, number, image) in enumerate(cases()):
            label = tuple(label) if isinstance(label, list) else label
            writer.write(key, pack(RecordHeader(label, number), image))


def write_images(folder: Path, faces: str | None) -> None:
    """Synthetic images of several kinds and sizes, and the first faces of an archive; two of them also as a tree."""
    import cv2
    import numpy as np
    (folder / 'images').mkdir()
    y, x = np.mgrid[:150, :201]
    picture = np.stack([x, y, (x * y) % 256], 2).astype(np.uint8)
    for name, side in (('wide', (201, 150)), ('tall', (97, 143)), ('aligned', (112, 112)), ('small', (40, 30))):
        scaled = cv2.resize(picture, side)
        for suffix in ('.jpg', '.png'):
            (folder / 'images' / f'{name}{suffix}').write_bytes(cv2.imencode(suffix, scaled)[1].tobytes())
    grey = cv2.imencode('.jpg', cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY))[1].tobytes()
    (folder / 'images' / 'grey.jpg').write_bytes(grey)
    if faces:
        from plugins.data.sources import TreeFaces
        source = TreeFaces(faces)
        for index in range(0, len(source), max(1, len(source) // 600)):
            (folder / 'images' / f'face{index:06d}.jpg').write_bytes(source.read(index)[0])
    for person, name in (('a', 'wide.jpg'), ('a', 'tall.jpg'), ('b', 'grey.jpg')):
        target = folder / 'tree' / person / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((folder / 'images' / name).read_bytes())


def compare(folder: Path) -> dict:
    """Every check by name, with what was compared."""
    import numpy as np

    from plugins.arcface_torch import mxnet_standin as standin
    from plugins.data.recordio import RecordReader, unpack
    from plugins.data.sources import RecordFaces
    answer = json.loads((folder / 'mxnet.json').read_text())
    expected = [[key, len(label) if isinstance(label, list) else 0, np.asarray(label, np.float32).ravel().tolist(), number,
                 digest(image)] for key, (label, number, image) in enumerate(cases())]
    reader = RecordReader(folder / 'mx.rec', folder / 'mx.idx')
    found = []
    for key in reader.keys.tolist():
        header, image = unpack(reader.read(key))
        found.append([key, header.flag, np.asarray(header.label, np.float32).ravel().tolist(), header.id, digest(image)])
    pixels, short = {}, {}
    for path in sorted((folder / 'images').iterdir()):
        image = standin.imdecode(path.read_bytes())
        small = standin.resize_short(image, 112)
        pixels[path.name] = [list(image.shape), digest(image.asnumpy().tobytes())]
        short[path.name] = [list(small.shape), digest(small.asnumpy().tobytes())]
    tree = RecordFaces(folder / 'im2rec.rec')
    packed = sorted((tree.read(i)[1], digest(tree.read(i)[0])) for i in range(len(tree)))
    listed = sorted((label, digest(path.read_bytes())) for label, person in enumerate('ab')
                    for path in (folder / 'tree' / person).iterdir())
    return {
        'mxnet': answer['mxnet'], 'numpy_of_mxnet': answer['numpy'],
        'rec written, bytes': _same((folder / 'mx.rec').read_bytes(), (folder / 'fz.rec').read_bytes()),
        'idx written, bytes': _same((folder / 'mx.idx').read_bytes(), (folder / 'fz.idx').read_bytes()),
        "facezoo's rec read by MXNet, records": _same(answer['records'], expected),
        "MXNet's rec read by facezoo, records": _same(found, expected),
        'images decoded, pixels': _same(answer['pixels'], pixels),
        'images scaled by resize_short, pixels': _same(answer['short'], short),
        "im2rec's rec read by facezoo, records": _same(listed, packed),
    }


def _same(theirs, ours) -> dict:
    """Whether two things are equal, and where not."""
    report: dict = {'equal': theirs == ours, 'compared': len(theirs)}
    if isinstance(theirs, dict):
        report['different'] = sorted(key for key in theirs if theirs[key] != ours.get(key))
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--mxnet', metavar='PYTHON', help='interpreter that has MXNet 1.9.1')
    parser.add_argument('--faces', metavar='ZIP', help='folder or zip of JPEGs to decode on both sides')
    parser.add_argument('--record', action='store_true', help='renew tests/data/mxnet')
    parser.add_argument('--inside', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        inside(args.inside)
        return 0
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        write_ours(folder)
        write_images(folder, args.faces)
        subprocess.run([args.mxnet, __file__, '--inside', work], check=True)
        report = {'command': command_line(__doc__), **compare(folder)}
        if args.record:
            FIXTURES.mkdir(parents=True, exist_ok=True)
            for name in ('mx.rec', 'mx.idx', 'im2rec.rec', 'im2rec.idx'):
                (FIXTURES / name).write_bytes((folder / name).read_bytes())
    text = json.dumps(report, indent=2)
    print(text)
    if not args.record:
        (ROOT / 'results').mkdir(exist_ok=True)
        (ROOT / 'results' / 'mxnet_interop.json').write_text(text + '\n')
    return 0 if all(entry['equal'] for entry in report.values() if isinstance(entry, dict)) else 1


if __name__ == '__main__':
    sys.exit(main())
