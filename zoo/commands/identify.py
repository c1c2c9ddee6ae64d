"""Measure 1:N identification on a folder of persons: rank-k, and DIR at FAR if there are unknown persons.

  facezoo identify fdfacenet --set faces/                             paper 004: 30 persons, each 2 images enrolled, 10 probes
  facezoo identify fdfacenet --set faces/ --persons 100 --unknown 50 --seed 1
  facezoo identify fdfacenet.lowquality --set faces/ --lowres         probes at x1, x2, x4, x8; the gallery stays sharp

--lowres degrades images as `facezoo eval --lowres` does: bicubic and Gaussian blur, sigma 1.
"""

from __future__ import annotations

import argparse
import json

from zoo.commands.options import add_embedder_options, number
from zoo.tables import format_table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--set', required=True, metavar='FOLDER', help='folder or zip of aligned faces, a folder per person')
    parser.add_argument('--persons', type=number(int, 1), default=30, metavar='N', help='enrolled persons')
    parser.add_argument('--enrol', type=number(int, 1), default=2, metavar='N', help='images of each in the gallery')
    parser.add_argument('--probes', type=number(int, 1), default=10, metavar='N', help='other images of each, to identify')
    parser.add_argument('--unknown', type=number(int, 0), default=0, metavar='N', help='other persons, who must not be found')
    parser.add_argument('--seed', type=number(int, 0), default=0, metavar='N', help='seed for drawing persons and images')
    parser.add_argument('--lowres', action='store_true', help='also with degraded probes, at x2, x4 and x8')
    add_embedder_options(parser)
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')


def run(args: argparse.Namespace) -> None:
    from plugins.data.sources import TreeFaces
    from zoo.evaluate.identification import GalleryProtocol, identify, identify_lowres
    from zoo.runtime import open_embedder
    protocol = GalleryProtocol(args.persons, args.enrol, args.probes, args.unknown, args.seed)
    embedder = open_embedder(args.model, args.threads, args.network)
    facts = {'model': str(args.model), 'set': str(args.set), 'seed': args.seed, 'flip': not args.no_flip}
    title = f'{args.model} on {args.set}, seed {args.seed}, flip {"off" if args.no_flip else "on"}'
    if args.lowres:
        results = identify_lowres(embedder, TreeFaces(args.set), protocol, flip=not args.no_flip, progress=True)
        _show_lowres(args, facts, title, {f'x{factor}': result.to_dict() for factor, result in results.items()})
        return
    result = identify(embedder, TreeFaces(args.set), protocol, not args.no_flip, progress=True).to_dict()
    if args.json:
        print(json.dumps({**facts, **result}, indent=2))
        return
    print(f'{title}\n')
    print(format_table(['metric', 'value'], [[key, f'{value:.4f}' if isinstance(value, float) else value]
                                             for key, value in result.items()]))


def _show_lowres(args: argparse.Namespace, facts: dict, title: str, results: dict[str, dict]) -> None:
    """Results by degradation: as JSON, or a row each with its ranks and DIRs in percent."""
    if args.json:
        print(json.dumps({**facts, 'degraded': 'probes', 'sigma': 1.0, 'results': results}, indent=2))
        return
    shown = [key for key in results['x1'] if key.startswith(('rank-', 'dir@'))]
    print(f'{title}; probes degraded, gallery as it is\n')
    print(format_table(['degradation', *(f'{key} %' for key in shown)],
                       [[factor, *(f'{100 * result[key]:.2f}' for key in shown)] for factor, result in results.items()]))
