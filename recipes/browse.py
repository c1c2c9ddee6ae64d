"""The recipes that facezoo ships, what they resolve to, and whether their data is there and fits.

  facezoo recipe list
  facezoo recipe show fdfacenet_ms1mv3
  facezoo recipe check fdfacenet_ms1mv3 rec=DIR       exit status 1 when a training would fail or go wrong

A file of your own (my_recipe.py with a `config` mapping) can be named instead.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.config import list_recipes, load_recipe, read_config
from zoo.hub import weights_path
from zoo.tables import format_table

if TYPE_CHECKING:
    from plugins.data.check import Finding


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest='verb', required=True, metavar='VERB')
    verbs.add_parser('list', help='all recipes')
    for name, text in (('show', 'every value'), ('check', 'data set present, counts agree, schedule sane')):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument('recipe', metavar='RECIPE', help='a shipped recipe by name, or a .py file with a `config` mapping')
        verb.add_argument('overrides', nargs='*', metavar='KEY=VALUE', help='replace values of the recipe')


def run(args: argparse.Namespace) -> int:
    return {'list': _list, 'show': _show, 'check': _check}[args.verb](args)


def _list(args: argparse.Namespace) -> int:
    print(format_table(['recipe', 'network', 'data', 'identities', 'images', 'epochs', 'batch', 'optimiser'],
                       [_row(name, load_recipe(name)) for name in list_recipes()]))
    print('\nthe batch is per process; `facezoo train RECIPE` trains any of them, `facezoo arcface-torch train_v2.py '
          'configs/RECIPE` those of recognisers')
    return 0


def _row(name: str, config) -> list:
    data = config.pictures if config.task == 'detection' else config.rec
    return [name, config.network, data, getattr(config, 'num_classes', None) or '-', getattr(config, 'num_image', None) or '-',
            config.num_epoch, config.batch_size, f'{config.optimizer} {config.lr:g} {config.schedule}']


def _show(args: argparse.Namespace) -> int:
    config = dataclasses.asdict(_load(args))
    for key, value in config.items():
        print(f'{key}: {value!r}')
    others = {key: value for key, value in read_config(args.recipe).items() if key not in config}
    print(f"only InsightFace's trainer reads: {', '.join(f'{key}={value!r}' for key, value in others.items()) or 'nothing'}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from plugins.data.check import check_recipe
    from plugins.registry import list_backbones
    from zoo.model_card import preprocess_of
    config = _load(args)
    if config.task == 'detection':
        return _check_detector(args.recipe, config)
    size = preprocess_of(config.network).input_size if config.network in list_backbones() else 112
    findings = [*check_recipe(dataclasses.asdict(config), size=size), *_networks(config, size)]
    serious = sum(finding.serious for finding in findings)
    for finding in findings:
        print(('wrong: ' if finding.serious else 'note:  ') + finding.text)
    print(f'{args.recipe}: {f"wrong: {serious}" if serious else f"fits {config.rec}"}')
    return 1 if serious else 0


def _networks(config, size: int) -> Iterator[Finding]:
    """Whether the network can be built, and whether what it starts and learns from can be opened and fits it."""
    import torch

    from plugins.data.check import Finding
    from plugins.registry import create_backbone
    from recipes.trainer.teacher import teacher_size
    from zoo.weights import load_weights
    try:
        with torch.device('meta'):
            create_backbone(config.network, num_features=config.embedding_size, **config.network_args)
    except (ValueError, TypeError, LookupError) as error:
        yield Finding(f'network={config.network!r}, network_args={config.network_args}: {error.args[0]}')
        return
    if config.init and not weights_path(config.init).is_file():
        yield Finding(f'init={config.init!r}: neither a weights file nor a model of the zoo that has trained weights')
    elif config.init:
        try:
            load_weights(create_backbone(config.network, num_features=config.embedding_size, **config.network_args),
                         weights_path(config.init))
        except ValueError as error:
            yield Finding(f'init={config.init!r}: {error}')
    for name in config.teachers:
        try:
            teacher_size(dataclasses.replace(config, teachers=(name,)), size)
        except (ValueError, LookupError, OSError, ImportError) as error:
            yield Finding(str(error) if name in str(error) else f'teachers: {name}: {error}')


def _check_detector(recipe: str, config) -> int:
    from plugins.data.sources import TreeFaces
    needed = (config.labels, config.teacher, config.init and weights_path(config.init))
    missing = [path for path in needed if path and not Path(path).is_file()]
    for path in missing:
        print(f'wrong: {path}: no such file')
    print(f'{recipe}: {len(TreeFaces(config.pictures))} pictures in {config.pictures}')
    return int(bool(missing))


def _load(args: argparse.Namespace):
    from plugins.overrides import parse_overrides
    return load_recipe(args.recipe, parse_overrides(args.overrides))
