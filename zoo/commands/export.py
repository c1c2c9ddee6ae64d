"""Export a trained model and check the artefact on real faces before it is handed out.

  facezoo export fdfacenet --to onnx --out fdfacenet.onnx --gate-set lfw.bin
  facezoo export fdfacenet --to ncnn --out fdfacenet_ncnn
  facezoo export fdfacenet --to pack --out ~/.insightface
  facezoo export retinaface_mnet025 --to onnx --out detector.onnx     InsightFace's contract: FaceAnalysis loads it

Gates: cosine to PyTorch at least 0.99999 on every face at batch 1, 2 and 32; with --gate-set, accuracy within 0.02 points.
An artefact that fails is not left at OUT, and the exit status is 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('name', help='a model of the zoo, or a weights file')
    parser.add_argument('--to', required=True, choices=('onnx', 'ncnn', 'pack'), help='what to make')
    parser.add_argument('--out', required=True, help="file (onnx), folder (ncnn), or FaceAnalysis's root (pack)")
    parser.add_argument('--weights', metavar='FILE', help="weights instead of the card's")
    parser.add_argument('--network', help='backbone, for a weights file that does not say it')
    parser.add_argument('--gate-set', metavar='SET', help='verification set: .bin, folder or zip with pairs.txt')
    parser.add_argument('--detector', type=Path, metavar='FILE', help='ONNX detector to put into the pack')


def run(args: argparse.Namespace) -> None:
    import zoo
    from zoo.export.artefact import export
    model = zoo.load(args.name, weights=args.weights, network=args.network)
    if not hasattr(model, 'num_features'):
        return _run_detector(args, model)
    name = Path(args.name).stem if Path(args.name).suffix else args.name.partition('.')[0]
    sidecar = export(model, name, args.to, args.out, args.gate_set, licence=_licence(args), detector=args.detector)
    parity = sidecar['parity']
    print(f'{args.to} at {args.out}: {sidecar["bytes"] / 1e6:.2f} MB')
    print(f'parity: minimum cosine {parity["min_cosine"]:.7f}, largest difference {parity["max_abs"]:.1e} '
          f'over {parity["faces"]} faces at batch {parity["batches"]}')
    if 'verification' in sidecar:
        found, torch = sidecar['verification']['artefact'], sidecar['verification']['torch']
        print(f'{sidecar["verification"]["set"]}: accuracy {100 * found["accuracy"]:.2f} % (torch '
              f'{100 * torch["accuracy"]:.2f} %), TAR@FAR1e-3 '
              f'{100 * found["tar@1e-3"]:.2f} % ({100 * torch["tar@1e-3"]:.2f} %)')
    else:
        print('no --gate-set: accuracy was not measured')


def _run_detector(args: argparse.Namespace, model) -> None:
    from zoo.export.detector import export_detector
    name = Path(args.name).stem if Path(args.name).suffix else args.name.partition('.')[0]
    sidecar = export_detector(model, name, args.to, args.out, _licence(args))
    print(f'{args.to} at {args.out}: {sidecar["bytes"] / 1e6:.2f} MB; largest difference to PyTorch '
          f'{sidecar["parity"]["max_abs"]:.1e}')


def _licence(args: argparse.Namespace) -> str:
    from zoo.model_card import CARDS, card
    name, _, tag = args.name.partition('.')
    if args.weights or not (CARDS / f'{name}.yaml').exists():
        return ''
    return card(name).weights[tag or 'default'].licence
