"""Accuracy of the weights trained with and without degraded faces, with both images of a pair degraded x1, x2, x4 and x8.

    python benchmarks/lowres.py --set lfw_112.zip

Writes results/lowres.json, the same figures as `facezoo eval MODEL --set SET --lowres both --json` for each of the weights, and
accuracy and TAR into their card (not when --out names another file).

Needs: lfw_112.zip (LFW, aligned)
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path

from command_line import command_line

from plugins.files import write_atomic
from recipes.bundle import add_metrics
from zoo.evaluate.lowres import verify_lowres
from zoo.evaluate.verification import load_verification_set
from zoo.runtime import open_embedder

RESULT = Path(__file__).parents[1] / 'results' / 'lowres.json'
WEIGHTS = ('fdfacenet', 'fdfacenet.lowquality')
SIGMA = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--set', required=True, help='verification set: .bin, folder or zip with pairs.txt')
    parser.add_argument('--out', type=Path, default=RESULT)
    args = parser.parse_args()
    data = load_verification_set(args.set)
    models = {name: {f'x{factor}': result.to_dict() for factor, result in
                     verify_lowres(open_embedder(name), data, sigma=SIGMA, progress=True).items()} for name in WEIGHTS}
    facts = {'command': command_line(__doc__), 'date': datetime.date.today().isoformat(),
             'models': models, 'flip': True, 'degraded': 'both', 'sigma': SIGMA, 'set': f'{data.name}, {len(data.same)} pairs'}
    write_atomic(args.out, json.dumps(facts, indent=1) + '\n')
    if args.out == RESULT:
        for name in WEIGHTS:
            add_metrics(name, {'lowres': card_metrics(facts, name)})


def card_metrics(facts: dict, model: str) -> dict:
    """What the card of a model says of its accuracy at low resolution."""
    return {**{factor: {key: round(row[key], 5) for key in ('accuracy', 'tar@1e-3')}
               for factor, row in facts['models'][model].items()},
            'conditions': f'{facts["set"]}, both images degraded (bicubic, then blur of sigma {facts["sigma"]:g}), flip sum',
            'command': facts['command']}


if __name__ == '__main__':
    main()
