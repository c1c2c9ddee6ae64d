"""Detectors in 8 bits beside floating point: whether they find the same faces and lead to the same names, and their times.

  python benchmarks/detector_int8.py quality --calib train --pictures heldout --raw lfw_raw_fold1.zip \\
      --recogniser edgeface_xs.onnx
  python benchmarks/detector_int8.py speed --out results/detector_int8.json

Needs: train (pictures to calibrate on), heldout (other pictures), lfw_raw_fold1.zip (unaligned pictures with pairs.txt),
edgeface_xs.onnx (a recogniser)

``quality`` writes the files into build/detector_int8, in 8 bits by several plans, which differ in how many of the first layers
stay in floating point. No picture of ``heldout`` is calibrated on. The chain aligns LFW's faces by the detector in 8 bits
("student", first plan) and in floating point ("teacher"). ``methods``: each method of choosing ranges, for onnxruntime and the
first plan. ``speed`` times the files in turns on one thread; a ratio is the median over the rounds, to the same runtime in
floating point.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from pathlib import Path

import numpy as np
from command_line import command_line

import zoo
from plugins.data.sources import TreeFaces
from plugins.files import write_atomic
from plugins.preprocess import decode_image
from recipes.bundle.detection import chain_metrics
from zoo.bench import machine
from zoo.export.agreement import LIMITS, DetectionJudge
from zoo.export.calibrate import METHODS
from zoo.export.detector import FORMATS, export_detector, trace_detector, traced_size
from zoo.export.detector_int8 import FIRST, METHOD, DetectorQuantiser
from zoo.export.fold import fold_batchnorm
from zoo.export.graph import Graph
from zoo.export.quantize import macs_in_int8
from zoo.runtime.detector import open_detector
from zoo.runtime.embedder import sidecar_path

NAME, FILES = 'retinaface_mnet025', Path('build/detector_int8')
PLANS, SIZES, ROUNDS = (1, 3, *FIRST), (640, 320), {640: 60, 320: 120}


def file_of(to: str, plan: object) -> Path:
    """Where a detector lies: ``plan`` is ``float``, a number of layers or a method."""
    return FILES / f'{to}_{plan}{FORMATS[to].suffix}'


def write_files(calib: str, to: str) -> dict[str, float]:
    """The detector in floating point and by each plan; returns the share of the arithmetic in 8 bits by plan."""
    model, form = zoo.load(NAME), FORMATS[to]
    export_detector(model, f'{to}_float', to, file_of(to, 'float') if to == 'onnx' else FILES)
    folded, shares = fold_batchnorm(model), {}
    graph, reference = Graph(trace_detector(folded, form.rows)), open_detector(NAME)
    sized = graph.at((1, 3, reference.size, reference.size))

    quantiser = DetectorQuantiser(graph, form.scheme, reference, calib)

    def write(plan: object, first: int, method: str) -> None:
        path = file_of(to, plan)
        form.quantise(graph, (3, *traced_size(model)), path, quantiser.calibration(method), quantiser.keep(first))
        facts = json.loads(sidecar_path(file_of(to, 'float')).read_text())
        sidecar_path(path).write_text(json.dumps({**facts, 'sha256': {}}))  # the float file's hashes are not this one's

    for first in PLANS:
        write(first, first, METHOD)
        shares[str(first)] = round(macs_in_int8(sized, quantiser.keep(first)), 4)
    for method in METHODS if to == 'onnx' else ():
        write(method, FIRST[0], method)
    return shares


def quality(args: argparse.Namespace) -> dict:
    """Agreement on the held-out pictures of every file, at both sizes, and the chain."""
    tree = TreeFaces(args.pictures)
    pictures = [decode_image(tree.read(row)[0], tree.name(row), upright=True) for row in range(len(tree))]
    shares = {to: write_files(args.calib, to) for to in FORMATS}
    agreement: dict = {to: {} for to in FORMATS}
    for size in SIZES:
        judge = DetectionJudge(open_detector(file_of('onnx', 'float'), 1, size), pictures)
        for to, plan in [(to, plan) for to in FORMATS for plan in ('float', *PLANS)] + [('onnx', m) for m in METHODS]:
            rows = agreement[to] if plan not in METHODS else agreement.setdefault('methods', {})
            report = judge(open_detector(file_of(to, plan), 1, size))
            rows.setdefault(str(plan), {})[str(size)] = {
                key: round(value, 4) if isinstance(value, float) else value for key, value in report.items()}
    student, teacher = (open_detector(file_of('onnx', plan), 1) for plan in (FIRST[0], 'float'))
    return {'int8_macs': shares, 'agreement': agreement, 'limits': LIMITS, 'method': METHOD,
            **chain_metrics({'student': student.net, 'teacher': teacher.net}, args, teacher.threshold)}


def speed() -> dict:
    """Milliseconds a picture of each file, and its ratio to the same runtime in floating point."""
    nets = {(to, plan): open_detector(file_of(to, plan), 1).net for to in FORMATS for plan in ('float', *PLANS)}
    found: dict = {to: {} for to in FORMATS}
    for size in SIZES:
        picture = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
        times: dict = {key: [] for key in nets}
        for turn in range(ROUNDS[size] + 1):
            for key in [*nets][turn % len(nets):] + [*nets][:turn % len(nets)]:
                began = time.perf_counter()
                nets[key](picture)
                times[key].append(1000 * (time.perf_counter() - began))
        rows = {key: np.array(row[1:]) for key, row in times.items()}
        for (to, plan), row in rows.items():
            ratios = row / rows[to, 'float']
            found[to].setdefault(str(plan), {})[str(size)] = {
                'ms': round(float(np.median(row)), 2), 'ratio': round(float(np.median(ratios)), 3),
                'ratio_quartiles': [round(float(q), 3) for q in np.percentile(ratios, [25, 75])]}
    return {'speed': found, 'rounds': ROUNDS, 'threads': 1, 'machine': machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('part', choices=('quality', 'speed'))
    parser.add_argument('--calib', help='pictures to calibrate on')
    parser.add_argument('--pictures', help='others to measure on')
    parser.add_argument('--raw', action='append', default=[], metavar='SET', help='verification set, unaligned')
    parser.add_argument('--recogniser', action='append', metavar='MODEL', help='embedder of the chain')
    parser.add_argument('--out', type=Path, default=Path('results/detector_int8.json'))
    args = parser.parse_args()
    FILES.mkdir(parents=True, exist_ok=True)
    report = json.loads(args.out.read_text()) if args.out.exists() else {}
    report |= quality(args) if args.part == 'quality' else speed()
    report |= {'model': NAME, 'command' if args.part == 'quality' else 'speed_command': command_line(__doc__),
               'date': datetime.date.today().isoformat()}
    write_atomic(args.out, json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
    main()
