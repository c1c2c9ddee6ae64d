"""Export a trained model and check the artefact on real faces before it is handed out.

  facezoo export fdfacenet --to onnx --out fdfacenet.onnx --gate-set lfw.bin
  facezoo export fdfacenet --to ncnn --out fdfacenet_ncnn
  facezoo export fdfacenet --to ncnn --precision int8 --calib faces.zip --gate-set lfw.bin --out fdfacenet_int8
  facezoo export fdfacenet --to onnx --precision int8 --calib faces.zip --gate-set lfw.bin --out fdfacenet_int8.onnx
  facezoo export fdfacenet --target raspberrypi-5 --out fdfacenet_pi5           NCNN with that board's options
  facezoo export fdfacenet --target jetson-tx2 --precision fp16,int8 --calib faces.zip --gate-set lfw.bin --out tx2.tar
  facezoo export fdfacenet --target jetson-tx2 --gate-set lfw.bin --detector detector.onnx --out tx2.tar    finds faces, too
  facezoo export fdfacenet --to pack --out ~/.insightface
  facezoo export retinaface_mnet025 --to onnx --out detector.onnx     InsightFace's contract: FaceAnalysis loads it
  facezoo export retinaface_mnet025 --to onnx --precision int8 --calib pictures.zip --out detector_int8.onnx
  facezoo export retinaface_mnet025 --to ncnn --precision int8 --calib pictures.zip --out detector_int8

Gates: on each of 64 faces, at batch 1, 2 and 32, the cosine to PyTorch must reach 0.99999 (fp32), 0.9999 (fp16), 0.999 (bf16)
or 0.9 (int8); with --gate-set, the accuracy may be at most 0.02 points lower (bf16 0.1, int8 0.2). A detector in 8 bits must
find the faces that PyTorch finds, on pictures of --calib that it was not calibrated on: recall and precision 97 %, landmarks
within 3.5 % of the eye distance on average. An artefact that fails is not left at OUT, and the exit status is 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('name', metavar='MODEL', help='a model of the zoo, or a weights file')
    parser.add_argument('--to', choices=('onnx', 'ncnn', 'tensorrt', 'pack'),
                        help="what to make; by default what the target's library takes")
    parser.add_argument('--target', metavar='TARGET',
                        help='device (`facezoo check --list`), with its options, limits and TensorRT version')
    parser.add_argument('--out', required=True, metavar='PATH',
                        help="file (onnx; a .tar for tensorrt), folder (ncnn), or FaceAnalysis's root (pack)")
    parser.add_argument('--precision', metavar='P,...', help="fp32, fp16, bf16 or int8 (for tensorrt also several); the "
                                                               "target's default unless given")
    parser.add_argument('--calib', metavar='FACES', help='for int8: folder, zip, .rec or .bin of aligned faces; for a '
                                                         'detector, of whole pictures')
    parser.add_argument('--weights', metavar='FILE', help="weights to use instead of the card's")
    parser.add_argument('--network', metavar='BACKBONE', help='backbone of a weights file that does not name it')
    parser.add_argument('--gate-set', metavar='SET', help='verification set: .bin, folder or zip with pairs.txt')
    parser.add_argument('--detector', type=Path, metavar='FILE', help='ONNX detector for the pack or the TensorRT bundle')


def run(args: argparse.Namespace) -> None:
    import zoo
    from zoo.export.artefact import export
    from zoo.export.lint import Finding
    from zoo.export.target import target
    from zoo.model_card import weights_of
    if not (args.to or args.target):
        raise ValueError('say what to make: --to onnx, ncnn, tensorrt or pack, or --target DEVICE')
    to = args.to or target(args.target).runtime.kind
    model = zoo.load(args.name, weights=args.weights, network=args.network)
    name = Path(args.name).stem  # of a file, or without the tag of its weights, which tells packs of one root apart
    if to == 'pack' and weights_of(args.name):
        name = args.name
    if not hasattr(model, 'num_features'):
        return _run_detector(args, model, to, name)
    sidecar = export(model, name, to, args.out, args.gate_set, detector=args.detector, precision=args.precision,
                     device=args.target, calib=args.calib)
    print(f'{to} at {args.out}{f"/models/{name}" if to == "pack" else ""}: {sidecar["bytes"] / 1e6:.2f} MB')
    for finding in sidecar.get('findings', ()):
        print(Finding(**finding))
    if to == 'tensorrt' and 'detector' in sidecar:
        print('detector, {precision}: {found} of {faces} faces of the sample picture, least overlap of boxes {min_iou:.4f}, '
              'landmark error {landmark_error:.4f} of the eye distance'.format(**sidecar['detector']))
    for precision, report in sidecar.get('precisions', {sidecar.get('precision'): sidecar}).items():
        _print(precision, report)


def _print(precision: str, report: dict) -> None:
    parity, both = report['parity'], report.get('verification')
    print(f'{precision}: minimum cosine {parity["min_cosine"]:.7f}, largest difference {parity["max_abs"]:.1e} '
          f'over {parity["faces"]} faces at batch {list(parity["batches"])}')
    if both:
        found, torch = both['artefact'], both['torch']
        print(f'{precision}: {both["set"]} accuracy {100 * found["accuracy@reference"]:.2f} % at the thresholds of PyTorch, '
              f'where the gate judges it (PyTorch {100 * torch["accuracy"]:.2f} %), TAR@FAR1e-3 '
              f'{100 * found["tar@1e-3"]:.2f} % ({100 * torch["tar@1e-3"]:.2f} %)')
    else:
        print('no --gate-set: accuracy was not measured')
    if 'quantisation' in report:
        plan = report['quantisation']
        print(f'{precision}: ranges by {plan["method"]}, {100 * plan["int8_macs"]:.0f} % of the arithmetic in 8 bits; in '
              f'floating point: {", ".join(plan["keep"]) or "none"}')


def _run_detector(args: argparse.Namespace, model, to: str, name: str) -> None:
    from zoo.export.detector import export_detector
    for option in ('gate_set', 'target', 'detector'):
        if getattr(args, option) is not None:
            raise ValueError(f'--{option.replace("_", "-")} is for recognisers; a detector is exported --to onnx or '
                             '--to ncnn, and judged on the sample picture, or in 8 bits on the pictures of --calib')
    sidecar = export_detector(model, name, to, args.out, args.precision or 'fp32', args.calib)
    print(f'{to} at {args.out}: {sidecar["bytes"] / 1e6:.2f} MB')
    if 'parity' in sidecar:
        print(f'largest difference to PyTorch {sidecar["parity"]["max_abs"]:.1e}')
        return
    plan = sidecar['quantisation']
    print(f'{100 * plan["int8_macs"]:.0f} % of the arithmetic in 8 bits; in floating point: the heads and the first '
          f'{plan["first_layers"]} layers')
    print('{faces} faces found by PyTorch in {pictures} pictures: recall {recall:.3f}, precision {precision:.3f}, overlap of '
          'boxes {mean_iou:.3f}, landmark error {landmark_error:.3f} of the eye distance'.format(**sidecar['agreement']))
