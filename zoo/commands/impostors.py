"""Measure how often strangers like your people are accepted, overall and by group, and find thresholds for them.

  facezoo data align people/ --out faces          people/GROUP/*.jpg, one picture of each person
  facezoo impostors fdfacenet --set faces
  facezoo impostors fdfacenet.onnx --set faces.zip --no-flip --json

The set holds one face of each person. Each of its folders is a group (an origin, an age, a site), whose faces are compared
among themselves; the first row is of all pairs. "FAR at 1e-3" is the FAR that the card's threshold for 1e-3 gives here.
"threshold@1e-3" is the cosine that would give 1e-3 here; it needs 142 faces or more, that for 1e-4 448, that for 1e-5 1415.
`facezoo eval` tells how often the right person is accepted at a threshold.
"""

from __future__ import annotations

import argparse
import json
import sys

from zoo.commands.options import add_embedder_options
from zoo.tables import format_table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--set', required=True, metavar='FOLDER', help='folder or zip of aligned faces of different persons')
    add_embedder_options(parser)
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')


def run(args: argparse.Namespace) -> None:
    from plugins.data.sources import TreeFaces
    from zoo.evaluate.impostors import measure_impostors
    from zoo.pipeline.threshold import FARS
    from zoo.runtime import open_embedder
    source, embedder = TreeFaces(args.set), open_embedder(args.model, args.threads, args.network)
    thresholds = _known_thresholds(embedder, FARS)
    if not thresholds:
        print(f'{args.model}: no thresholds are known for it, so that there is no FAR to measure; those found on these faces '
              'are given all the same', file=sys.stderr)
    whole, groups = measure_impostors(embedder, source, thresholds, FARS, not args.no_flip, progress=True)
    first, second, score = whole.most_alike
    alike = {'faces': [source.name(first), source.name(second)], 'score': score}
    if args.json:
        print(json.dumps({'model': str(args.model), 'set': str(args.set), 'flip': not args.no_flip, 'thresholds': thresholds,
                          'all': whole.to_dict(), 'groups': {name: group.to_dict() for name, group in groups.items()},
                          'most_alike': alike}, indent=2))
        return
    header = ['group', 'faces', 'pairs', *(f'FAR at {far}' for far in thresholds), *(f'threshold@{far}' for far in FARS)]
    rows = [[name, result.faces, f'{result.pairs:,}', *(f'{far:.2e}' for far in result.far.values()),
             *(f'{result.threshold[far]:.4f}' if far in result.threshold else '-' for far in FARS)]
            for name, result in {'all': whole, **{f'{name}/': group for name, group in groups.items()}}.items()]
    print(f'{args.model} on {args.set}, flip {"off" if args.no_flip else "on"}\n\n{format_table(header, rows)}')
    print(f'\nmost alike ({score:.4f}): {" and ".join(alike["faces"])}\n'
          'A person who is in the set twice counts as a false accept.')


def _known_thresholds(embedder, fars: tuple[str, ...]) -> dict[str, float]:
    """The card's, of those FARs that it has."""
    from zoo.pipeline.threshold import threshold_of
    known = {}
    for far in fars:
        try:
            known[far] = threshold_of(embedder, far)
        except ValueError:  # none at this FAR, or nothing known of the model: thresholds are found all the same
            continue
    return known
