"""TAR at FAR of IJB-B or IJB-C templates, with InsightFace's arithmetic, for weights, ONNX (also INT8) and NCNN models.

  facezoo ijb fdfacenet --root IJB_release/IJBC
  facezoo ijb model_int8.onnx --root IJB_release/IJBB --target ijbb --scores scores.npy --json

The folder of --root holds loose_crop/ and meta/, as in InsightFace's evaluation pack.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from zoo.commands.options import add_embedder_options, number
from zoo.tables import format_table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--root', required=True, type=Path, metavar='FOLDER', help='IJBC or IJBB, with loose_crop/ and meta/')
    parser.add_argument('--target', choices=('ijbc', 'ijbb'), default='ijbc', help='which protocol the folder holds')
    parser.add_argument('--batch', type=number(int, 1), default=64, metavar='N', help='faces that are embedded at once')
    parser.add_argument('--scores', type=Path, metavar='FILE', help='save the scores of all pairs (.npy)')
    add_embedder_options(parser)
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from plugins.files import atomic_path
    from zoo.evaluate.ijb import evaluate_ijb, load_protocol
    from zoo.runtime import open_embedder
    embedder = open_embedder(args.model, args.threads, args.network)
    protocol = load_protocol(args.root, args.target)
    began = time.perf_counter()
    result, scores = evaluate_ijb(embedder, protocol, args.batch, flip=not args.no_flip, progress=True)
    seconds = time.perf_counter() - began
    if args.json:
        print(json.dumps({'model': str(args.model), 'root': str(args.root), 'target': args.target, 'flip': not args.no_flip,
                          **result.to_dict(), 'seconds': round(seconds, 2)}, indent=2))
    else:
        print(f'{args.model} on {args.target}: {result.images} images, {result.templates} templates, {result.pairs} pairs '
              f'({result.genuine} genuine), flip {"off" if args.no_flip else "on"}, {seconds:.1f} s\n')
        print(format_table(['FAR', 'TAR %'], [[far, f'{100 * tar:.2f}'] for far, tar in result.tar.items()]))
    if args.scores:  # last: where they cannot be written, the figures of hours are not lost
        with atomic_path(args.scores) as temporary, open(temporary, 'wb') as file:
            np.save(file, scores)
