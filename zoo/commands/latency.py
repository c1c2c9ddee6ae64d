"""Predict how long a model takes on a device, and fit the predictions to measured times.

  facezoo latency list                                       devices with a shipped latency model, and its errors
  facezoo latency predict fdfacenet mobilefacenet --device raspberry-pi-4b-paper   exit status 1 when one is not predicted
  facezoo latency design fdfacenet --device pi5.json --budget 20   the widest that fits into 20 ms
  facezoo latency fit bench.json --out pi5.json              from `facezoo bench ... --json bench.json` run on the device

A latency model is a sum over features of the network with non-negative coefficients; to fit it takes at least two networks
more than it has coefficients. Nothing is predicted outside the range that was measured. Errors: R2, the mean absolute
percentage error (MAPE), and the MAPE when each network is left out in turn.
"""

from __future__ import annotations

import argparse
import json

from zoo.commands.options import add_backbone_options, backbone_options, number
from zoo.latency import FEATURES, LatencyModel, OutOfRange, bench_points, features_of, fit, list_latency, load_latency, widest
from zoo.tables import format_table


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest='verb', required=True, metavar='VERB')
    verbs.add_parser('list', help='the shipped latency models')
    predict = verbs.add_parser('predict', help='how many milliseconds backbones take')
    predict.add_argument('names', nargs='+', metavar='BACKBONE', help='recognisers of `facezoo list`')
    predict.add_argument('--json', action='store_true', help='print JSON instead of a table')
    design = verbs.add_parser('design', help='the widest backbone that fits into a given time')
    design.add_argument('name', metavar='BACKBONE', help='a recogniser of `facezoo list`')
    design.add_argument('--budget', type=number(float, 0, above=True), required=True, metavar='MS',
                        help='milliseconds that an inference may take')
    for verb in (predict, design):
        verb.add_argument('--device', default='raspberry-pi-4b-paper', metavar='DEVICE',
                          help="a shipped latency model, or a JSON file from 'fit'")
        add_backbone_options(verb)
    fitting = verbs.add_parser('fit', help='fit a latency model to measured times')
    fitting.add_argument('results', metavar='FILE', help='JSON of `facezoo bench`')
    fitting.add_argument('--out', required=True, metavar='FILE', help='the JSON file to write')
    fitting.add_argument('--runtime', metavar='RUNTIME', help='which of the measured runtimes; needed where there are several')
    fitting.add_argument('--features', default='macs,feature_map', metavar='NAME,...', help=f'any of {", ".join(FEATURES)}')
    fitting.add_argument('--relative', action='store_true', help='let small networks count as much as large ones')


def run(args: argparse.Namespace) -> int | None:
    return {'list': _list, 'predict': _predict, 'design': _design, 'fit': _fit}[args.verb](args)


def _list(_: argparse.Namespace) -> None:
    models = {name: load_latency(name) for name in list_latency()}
    print(format_table(['name', 'device', 'features', 'networks', 'R2', 'MAPE', 'leave one out'],
                       [[name, m.device, ', '.join(m.coefficients), m.points, *_errors(m)] for name, m in models.items()]))


def _errors(model: LatencyModel) -> list[str]:
    return [f'{model.r2:.3f}', f'{model.mape:.1%}', f'{model.loo:.1%}']


def _predict(args: argparse.Namespace) -> int:
    import zoo
    model, options, rows, refused = load_latency(args.device), backbone_options(args), [], {}
    for name in args.names:
        try:
            rows.append([name, model.predict(features_of(zoo.profile(zoo.create(name, **options))))])
        except OutOfRange as error:
            refused[name] = str(error)
    if args.json:
        print(json.dumps({'device': model.device, 'r2': model.r2, 'mape': model.mape, 'leave_one_out': model.loo,
                          'milliseconds': dict(rows), 'refused': refused}, indent=2))
        return int(bool(refused))
    if rows:
        print(format_table(['model', 'ms'], rows), end='\n\n')
    for name, reason in refused.items():
        print(f'{name}: not predicted: {reason}')
    _print_model(model)
    return int(bool(refused))


def _print_model(model: LatencyModel) -> None:
    terms = [f'{value:.4g} {name}' for name, value in model.coefficients.items()]
    print(f'{model.device}: T = {" + ".join([*terms, f"{model.constant:.4g}"])} ms from {model.points} networks; '
          'R2 {}, MAPE {}, leaving one out {}'.format(*_errors(model)))


def _design(args: argparse.Namespace) -> None:
    model, options = load_latency(args.device), backbone_options(args)
    if 'width' in options:
        raise ValueError('--width: design finds it; `facezoo latency predict` takes one')
    width, milliseconds, profile = widest(args.name, model, args.budget, **options)
    print(f'{args.name} --width {width:.2f}: {milliseconds:.1f} ms of {args.budget:g} ms, '
          f'{profile.params / 1e6:.2f} M parameters, {profile.macs / 1e6:.0f} M MACs')
    _print_model(model)


def _fit(args: argparse.Namespace) -> None:
    points, device = bench_points(args.results, args.runtime)
    model = fit(points, args.features.split(','), device, relative=args.relative)
    model.save(args.out)
    _print_model(model)
