"""The card of a model: source, fidelity, deviations, preprocessing, weights with provenance and measurements.

  facezoo info fdfacenet
  facezoo info fdfacenet.lowquality    only these weights
  facezoo info retinaface_mnet025      a detector
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import yaml

from plugins.registry import suggest
from zoo.model_card import CARDS, CardError, card


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('name', metavar='MODEL', help='a model of `facezoo list`')


def run(args: argparse.Namespace) -> None:
    model = card(args.name)
    data = yaml.safe_load((CARDS / f'{model.name}.yaml').read_text(encoding='utf-8'))
    if tag := args.name.partition('.')[2]:
        if tag not in model.weights:
            have = suggest(tag, model.weights) if model.weights else ' (it has none yet)'
            raise CardError(f'{model.name} has no trained weights {tag!r}{have}')
        data['weights'] = {tag: data['weights'][tag]}
    data = {'name': model.name, **data, 'preprocess': model.preprocess.to_dict()}
    _show(data, 0)


def _show(value, depth: int, label: str = '') -> None:
    indent = '  ' * depth
    if isinstance(value, Mapping):
        if label:
            print(f'{indent}{label}:')
        for key, item in value.items():
            _show(item, depth + bool(label), str(key))
    elif isinstance(value, list):
        print(f'{indent}{label}:')
        for item in value:
            print(f'{indent}  - {item}')
    else:
        print(f'{indent}{label}: {value:,}' if isinstance(value, int) and value > 9999 else f'{indent}{label}: {value}')
