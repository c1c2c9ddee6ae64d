"""How often strangers like your people are accepted, whole and by group, and thresholds for them: from one face of each person.

  facezoo data align people/ --out faces          people/GROUP/*.jpg, one picture of each person
  facezoo impostors fdfacenet --set faces
  facezoo impostors fdfacenet.onnx --set faces.zip --no-flip --json

Folders of the set are groups (an origin, an age, a site), compared within; the first row is of all pairs. "FAR at 1e-3" is
what the card's threshold for 1e-3 gives here. "threshold@1e-3" is the cosine that would give 1e-3 here: it needs 142 faces or
more, 1e-4 448 and 1e-5 1415. How often the right person is accepted at it `facezoo eval` says.
"""

from __future__ import annotations

import argparse
import json

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
    print(f'\nmost alike ({score:.4f}): {" and ".join(alike["faces"])}\nA person who is there twice counts as a false accept.')


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
