"""Reading and decoding a train.rec on one core: facezoo against MXNet 1.9.1's own reader and decoder, on the same file.

    python3.11 -m venv mx && mx/bin/pip install mxnet==1.9.1 numpy==1.23.5
    python benchmarks/loading.py --mxnet mx/bin/python --rec faces

Both read the records in the same random order, in turns, with one thread each. What counts is the processor time of the
process, which other work on the machine disturbs least. Writes results/loading.json. Exit status 1 when facezoo is slower.

Needs: mx/bin/python (MXNet 1.9.1 in an environment of its own), faces (a train.rec of `facezoo data pack`)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from command_line import command_line

ROOT = Path(__file__).parents[1]


def order(count: int, images: int) -> list[int]:
    """Keys of the records in an order that is the same in every version of every library."""
    return [1 + (n * 7919 + 13) % count for n in range(images)]


def mxnet_reader(folder: str) -> tuple[Callable, int, str]:
    import mxnet as mx
    reader = mx.recordio.MXIndexedRecordIO(f'{folder}/train.idx', f'{folder}/train.rec', 'r')
    count = int(mx.recordio.unpack(reader.read_idx(0))[0].label[0]) - 1

    def read(key: int):
        header, image = mx.recordio.unpack(reader.read_idx(key))
        return mx.image.imdecode(image).asnumpy(), header.label
    return read, count, mx.__version__


def facezoo_reader(folder: str) -> tuple[Callable, int, str]:
    import cv2

    import zoo
    from plugins.data.sources import RecordFaces, decode_face
    cv2.setNumThreads(1)
    faces = RecordFaces(folder)
    return lambda key: decode_face(faces, key - 1, 112), len(faces), zoo.__version__


READERS = {'facezoo': facezoo_reader, 'mxnet': mxnet_reader}


def measure(side: str, folder: str, images: int) -> None:
    """Print what was read and how long it took."""
    read, count, version = READERS[side](folder)
    keys, total = order(count, images), 0
    for key in keys[:50]:
        read(key)
    began = time.process_time()
    for key in keys:
        total += int(read(key)[0].sum())  # the same on both sides: neither put anything off
    seconds = time.process_time() - began
    print('\n' + json.dumps({'images_per_cpu_second': round(images / seconds, 1), 'pixel_sum': total, 'version': version}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--mxnet', metavar='PYTHON', help='interpreter that has MXNet 1.9.1')
    parser.add_argument('--rec', required=True, metavar='DIR', help="train.rec in InsightFace's layout, 112x112")
    parser.add_argument('--images', type=int, default=5000)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--side', choices=tuple(READERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        measure(args.side, args.rec, args.images)
        return 0
    found: dict[str, list[dict]] = {side: [] for side in READERS}
    for _ in range(args.rounds):
        for side, python in (('facezoo', sys.executable), ('mxnet', args.mxnet)):
            done = subprocess.run([python, __file__, '--side', side, '--rec', args.rec, '--images', str(args.images)],
                                  check=True, text=True, stdout=subprocess.PIPE,
                                  env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'})
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    rates = {side: [run['images_per_cpu_second'] for run in runs] for side, runs in found.items()}
    medians = {side: statistics.median(values) for side, values in rates.items()}
    report = {'command': command_line(__doc__), 'date': time.strftime('%Y-%m-%d'),
              'machine': f'{platform.machine()}, {os.cpu_count()} cores, shared with other work', 'images': args.images,
              'versions': {side: runs[0]['version'] for side, runs in found.items()},
              'images_per_cpu_second': medians, 'rounds': rates, 'ratio': round(medians['facezoo'] / medians['mxnet'], 3),
              'same_pixels': len({run['pixel_sum'] for runs in found.values() for run in runs}) == 1}
    print(json.dumps(report, indent=2))
    (ROOT / 'results' / 'loading.json').write_text(json.dumps(report, indent=2) + '\n')
    return 0 if report['same_pixels'] and report['ratio'] >= 1 else 1


if __name__ == '__main__':
    sys.exit(main())
