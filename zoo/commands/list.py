"""The models of the zoo: size, input, fidelity to their paper, trained weights and what they reach on LFW.

  facezoo list              all models
  facezoo list --trained    only those with trained weights
  facezoo list --json       for programs: a list of objects with name, params, macs, input_size, fidelity, weights, lfw (%)
"""

from __future__ import annotations

import argparse
import json

from zoo.model_card import ModelCard, card, list_models
from zoo.tables import format_table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--trained', action='store_true', help='only models with trained weights')
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')


def run(args: argparse.Namespace) -> None:
    rows = [_row(card(name)) for name in list_models(weights=args.trained)]
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    print(format_table(['model', 'params M', 'MACs M', 'input', 'fidelity', 'weights', 'LFW %'],
                       [[r['name'], r['params'] / 1e6, r['macs'] / 1e6, r['input_size'], r['fidelity'],
                         ' '.join(r['weights']) or '-', r['lfw'] or '-'] for r in rows]))
    print('\nparams and MACs of the default build (pure multiply-accumulates); `facezoo info NAME` shows the card')


def _row(model: ModelCard) -> dict:
    lfw = model.weights['default'].metrics.get('lfw', {}).get('accuracy') if 'default' in model.weights else None
    return {'name': model.name, 'params': model.params, 'macs': model.macs, 'input_size': model.input_size,
            'fidelity': model.fidelity, 'weights': list(model.weights), 'lfw': lfw and round(100 * lfw, 2)}
