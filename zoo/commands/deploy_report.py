"""Show every way to deploy a model in one table and one picture: size, parity, accuracy, latency, and why a gate failed.

  facezoo deploy-report fdfacenet --gate-set lfw.bin --calib faces.zip --out report
  facezoo deploy-report fdfacenet --gate-set lfw.bin --calib faces.zip --targets jetson-tx2,raspberrypi-4 --out report
  facezoo deploy-report fdfacenet --gate-set lfw.bin --measured tx2.json --out report     with what verify.py measured

Writes OUT/NAME.json, NAME.md and NAME.png, and leaves the artefacts that passed in OUT. Without --calib nothing is made in
8 bits. An artefact that is refused is a row of the report, not an error.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from plugins.extras import require
from plugins.files import write_atomic
from zoo.commands.options import number

TARGETS = 'jetson-tx2,jetson-orin,raspberrypi-4'


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('name', metavar='MODEL', help='a model of the zoo, or a weights file')
    parser.add_argument('--gate-set', required=True, metavar='SET', help='verification set: .bin, folder or zip with pairs.txt')
    parser.add_argument('--calib', metavar='FACES', help='folder, zip, .rec or .bin of aligned faces, for 8 bits')
    parser.add_argument('--targets', default=TARGETS, metavar='TARGET,...', help='devices of `facezoo check --list`')
    parser.add_argument('--measured', nargs='+', default=[], metavar='FILE', help="JSON that a bundle's verify.py --out wrote")
    parser.add_argument('--out', required=True, type=Path, metavar='FOLDER', help='for the report and the artefacts')
    parser.add_argument('--weights', metavar='FILE', help="weights to use instead of the card's")
    parser.add_argument('--network', metavar='BACKBONE', help='backbone of a weights file that does not name it')
    parser.add_argument('--rounds', type=number(int, 1), default=10, metavar='N',
                        help='turns that each artefact takes when it is timed')


def run(args: argparse.Namespace) -> None:
    for module in ('torch', 'onnx', 'pnnx', 'matplotlib'):
        require(module, 'all')  # said before the long work
    import zoo
    from zoo.export.gates import Judge
    from zoo.export.job import Job
    from zoo.export.report import make_report
    from zoo.export.report_text import draw_report, report_markdown
    from zoo.export.sidecar import files_of
    from zoo.export.target import target
    from zoo.runtime.torch import TorchEmbedder
    targets = [target(name) for name in args.targets.split(',')]
    model = zoo.load(args.name, weights=args.weights, network=args.network)
    name = Path(args.name).stem
    if owners := files_of(args.out / f'{name}.json'):
        raise ValueError(f'{args.out / name}.json belongs to {owners[0].name}, which could not be checked without it; choose '
                         'another --out')
    job = Job(model, name, Judge(TorchEmbedder(model, model.preprocess, name), args.gate_set), calib=args.calib)
    report = make_report(job, targets, args.out, args.measured, args.rounds)
    write_atomic(args.out / f'{name}.json', json.dumps(report, indent=1) + '\n')
    draw_report(report, args.out / f'{name}.png')
    page = report_markdown(report, f'{name}.png')
    write_atomic(args.out / f'{name}.md', page)
    print(page)
