"""Verification accuracy, TAR at FAR and thresholds, with InsightFace's arithmetic.

  facezoo eval fdfacenet --set lfw.bin
  facezoo eval model.onnx --set lfw_folder_with_pairs.txt --json
  facezoo eval ncnn_folder --set faces.zip
  facezoo eval fdfacenet --set pictures.zip --detector retinaface_mnet025     the whole chain, from unaligned pictures
  facezoo eval fdfacenet --set lfw.bin --lowres            at x1, x2, x4, x8 (bicubic and Gaussian blur, sigma 1)
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from zoo.commands.options import add_embedder_options
from zoo.tables import format_table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--set', required=True, metavar='SET', help='.bin, or folder or zip of faces with pairs.txt')
    parser.add_argument('--pairs', metavar='FILE', help='pairs.txt, if it is not in the folder')
    parser.add_argument('--detector', metavar='MODEL', help='for a set of unaligned pictures: the detector that aligns the '
                                                            'central face of each; a picture without a face is like nobody')
    parser.add_argument('--lowres', choices=('both', 'one'), nargs='?', const='both',
                        help='degrade both images of each pair, or one (the second)')
    parser.add_argument('--plot', metavar='FILE', help='draw accuracy against degradation, as PNG (with --lowres)')
    add_embedder_options(parser)
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')


def run(args: argparse.Namespace) -> None:
    from zoo.evaluate.verification import load_verification_set, verify
    from zoo.runtime import open_embedder
    if args.plot and not args.lowres:
        raise ValueError('--plot draws accuracy against degradation: it needs --lowres')
    data = load_verification_set(args.set, args.pairs)
    embedder = open_embedder(args.model, args.threads, args.network)
    facts = {'model': str(args.model), 'set': str(args.set), 'flip': not args.no_flip}
    began = time.perf_counter()
    if args.detector:
        data, chain = _aligned(args, data, embedder.preprocess.input_size)
        facts |= chain
    if args.lowres:
        _lowres(args, embedder, data, facts)
        return
    result = verify(embedder, data, not args.no_flip, progress=True).to_dict()
    seconds = time.perf_counter() - began
    if args.json:
        print(json.dumps({**facts, **result, 'seconds': round(seconds, 2)}, indent=2))
        return
    print(f'{_title(args)}: {result["pairs"]} pairs, flip {"off" if args.no_flip else "on"}, {seconds:.1f} s\n')
    print(format_table(['metric', 'value'], [[key, f'{value:.4f}' if isinstance(value, float) else value]
                                             for key, value in result.items()]))


def _aligned(args: argparse.Namespace, data, size: int) -> tuple:
    """The set as the detector aligns it, and what is to be said of that."""
    from zoo.evaluate.chain import align_set
    from zoo.runtime.detector import open_detector
    detector = open_detector(args.detector, args.threads)
    data, missed = align_set(data, detector, size, progress=True)
    if missed:
        print(f'no face found in {len(missed)} of {len(data.faces)} pictures: {", ".join(missed[:3])}'
              + ', ...' * (len(missed) > 3), file=sys.stderr)
    return data, {'detector': str(args.detector), 'score': detector.threshold, 'pictures': len(data.faces),
                  'without_face': len(missed)}


def _title(args: argparse.Namespace) -> str:
    return f'{args.model} on {args.set}' + (f', aligned by {args.detector}' if args.detector else '')


def _lowres(args: argparse.Namespace, embedder, data, facts: dict) -> None:
    from zoo.evaluate.lowres import verify_lowres
    results = verify_lowres(embedder, data, both=args.lowres == 'both', flip=not args.no_flip, progress=True)
    if args.json:
        print(json.dumps({**facts, 'degraded': args.lowres, 'sigma': 1.0,
                          'results': {f'x{f}': r.to_dict() for f, r in results.items()}}, indent=2))
    else:
        print(f'{_title(args)}, {args.lowres} images degraded, flip {"off" if args.no_flip else "on"}\n')
        print(format_table(['degradation', 'accuracy %', 'TAR@FAR1e-3 %'],
                           [[f'x{f}', f'{100 * r.accuracy:.2f}', f'{100 * r.tar["1e-3"]:.2f}'] for f, r in results.items()]))
    if args.plot:  # last: where it cannot be drawn, the figures are not lost
        _plot(args, {factor: result.accuracy for factor, result in results.items()})


def _plot(args: argparse.Namespace, accuracy: dict[int, float]) -> None:
    from zoo.plots import sheet
    with sheet(args.plot, xlabel='degradation', ylabel='accuracy, %', title=f'{args.model} on {Path(args.set).stem}') as axes:
        axes.plot([f'x{factor}' for factor in accuracy], [100 * value for value in accuracy.values()], marker='o')
