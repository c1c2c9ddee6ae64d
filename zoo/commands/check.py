"""Check whether a model's graph suits a device, before anything is built.

  facezoo check fdfacenet --target jetson-tx2
  facezoo check model.onnx --target jetson-orin --calib faces.zip     also checks the FP16 range, on real faces
  facezoo check --list                                                all targets

Exit status 1 when the graph cannot be built for the target.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from zoo.tables import format_table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('name', nargs='?', metavar='MODEL', help='a model of the zoo, a weights file, or an .onnx file')
    parser.add_argument('--target', metavar='TARGET', help='device; --list shows all')
    parser.add_argument('--calib', metavar='FACES', help='folder, zip, .rec or .bin of aligned faces to measure ranges on')
    parser.add_argument('--list', action='store_true', help='print the targets')
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')


def run(args: argparse.Namespace) -> int:
    from zoo.export.target import list_targets, target
    if args.list:
        devices = [target(name) for name in list_targets()]
        print(format_table(['target', 'library', 'precisions', 'device'],
                           [[d.name, d.runtime.name, ', '.join(d.native), d.summary] for d in devices]))
        return 0
    if not args.name or not args.target:
        raise ValueError('name a model and a --target (`facezoo check --list` shows all)')
    from zoo.export.lint import lint
    device, (graph, preprocess) = target(args.target), _open(args.name)
    findings = lint(graph, device, _ranges(graph, preprocess, args.calib) if args.calib else None)
    if args.json:
        print(json.dumps({'target': device.name, 'findings': [f.to_dict() for f in findings]}, indent=2))
    else:
        for finding in findings:
            print(finding)
        print(f'{args.name} for {device.summary} ({device.runtime.name}): {len(graph.nodes)} nodes, '
              f'{sum(f.level == "error" for f in findings)} errors, {sum(f.level == "warning" for f in findings)} warnings')
    return int(any(finding.level == 'error' for finding in findings))


def _open(name: str):
    """The graph of a zoo model, a weights file or an ONNX file, and a recogniser's preprocessing."""
    from zoo.export.graph import Graph
    if Path(name).suffix == '.onnx':
        from zoo.runtime.embedder import read_sidecar
        sidecar, preprocess = read_sidecar(name)
        return Graph.load(name), None if sidecar.get('task') == 'detection' else preprocess
    from zoo.export.detector import trace_detector
    from zoo.export.fold import fold_batchnorm
    from zoo.export.onnx import to_onnx
    from zoo.loading import build_any
    model = build_any(name)
    if not hasattr(model, 'num_features'):
        return Graph(trace_detector(fold_batchnorm(model), rows=True)), None
    return Graph(to_onnx(model)), model.preprocess


def _ranges(graph, preprocess, faces: str) -> dict[str, float]:
    """Largest absolute value of each tensor on some of the faces."""
    from zoo.export.calibrate import calibration_faces, measure_histograms
    if preprocess is None:
        raise ValueError('--calib measures the ranges of recognisers, on aligned faces; leave it out for a detector')
    histograms = measure_histograms(graph, calibration_faces(faces, 64, preprocess.input_size), preprocess)
    return {name: histogram.absmax for name, histogram in histograms.items()}
