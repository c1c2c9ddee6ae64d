"""The recipes that facezoo ships, what they resolve to, and whether their data is there and fits.

  facezoo recipe list
  facezoo recipe show fdfacenet_ms1mv3
  facezoo recipe check fdfacenet_ms1mv3 rec=DIR       exit status 1 when a training would fail or go wrong

A file of your own (my_recipe.py with a `config` mapping) can be given in place of a recipe's name.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from recipes.config import list_recipes, load_recipe, read_config
from zoo.hub import weights_path
from zoo.tables import format_table

if TYPE_CHECKING:
    from plugins.data.check import Finding


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest='verb', required=True, metavar='VERB')
    verbs.add_parser('list', help='all recipes')
    for name, text in (('show', 'every value of a recipe'),
                       ('check', 'whether the data set is present, its counts agree and the schedule is sane')):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument('recipe', metavar='RECIPE', help='a shipped recipe by name, or a .py file with a `config` mapping')
        verb.add_argument('overrides', nargs='*', metavar='KEY=VALUE', help='replace values of the recipe')


def run(args: argparse.Namespace) -> int:
    return {'list': _list, 'show': _show, 'check': _check}[args.verb](args)


def _list(args: argparse.Namespace) -> int:
    print(format_table(['recipe', 'network', 'data', 'identities', 'images', 'epochs', 'batch', 'optimiser'],
                       [_row(name, load_recipe(name)) for name in list_recipes()]))
    print('\nthe batch is per process; `facezoo train RECIPE` trains any of them, `facezoo arcface-torch train_v2.py '
          'configs/RECIPE` only those of recognisers')
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
    config = _load(args)
    detection = config.task == 'detection'
    findings = [*(_of_detector(config) if detection else _of_recogniser(config))]
    serious = sum(finding.serious for finding in findings)
    for finding in findings:
        print(('wrong: ' if finding.serious else 'note:  ') + finding.text)
    fits = f'fits {config.pictures if detection else config.rec}'
    print(f'{args.recipe}: {f"wrong: {serious}" if serious else fits}')
    return 1 if serious else 0


def _of_recogniser(config) -> Iterator[Finding]:
    from plugins.data.check import Finding, check_recipe
    from plugins.data.degrade import Degrade
    from plugins.registry import create_backbone, list_backbones
    from recipes.trainer.teacher import teacher_size
    from zoo.model_card import preprocess_of
    size = preprocess_of(config.network).input_size if config.network in list_backbones() else 112
    yield from check_recipe(dataclasses.asdict(config), size=size)
    yield from _network(config, partial(create_backbone, num_features=config.embedding_size))
    sizes = [size]
    for name in config.teachers:
        try:
            sizes.append(teacher_size([name], size))
        except (ValueError, LookupError, OSError, ImportError) as error:
            yield Finding(str(error) if name in str(error) else f'teachers: {name}: {error}')
    try:
        Degrade(**config.degrade).check(max(sizes))
    except ValueError as error:
        yield Finding(str(error))


def _of_detector(config) -> Iterator[Finding]:
    from plugins.data.check import Finding, check_schedule
    from plugins.data.pictures import Pictures, read_labels
    from plugins.files import read_names
    from plugins.registry import create_detector
    yield from check_schedule(dataclasses.asdict(config))
    of_network = [*_network(config, create_detector, teacher=config.teacher)]
    yield from of_network
    try:
        if not of_network:
            create_detector(config.network, **config.network_args).anchors.priors(config.view_size, config.view_size)
    except ValueError as error:
        yield Finding(f'view_size={config.view_size}: {error}')
    try:
        Pictures(config.pictures, read_labels(read_names(config.labels), config.labels) if config.labels else None)
    except (ValueError, OSError) as error:
        yield Finding(str(error))


def _network(config, create: Callable, **weights: str | None) -> Iterator[Finding]:
    """Whether the network can be built, and whether ``init`` and the other ``weights`` can be opened and fit it."""
    from plugins.data.check import Finding
    from zoo.weights import load_weights
    try:
        network = create(config.network, **config.network_args)
    except (ValueError, TypeError, LookupError) as error:
        yield Finding(f'network={config.network!r}, network_args={config.network_args}: {error.args[0]}')
        return
    init = weights_path(config.init) if config.init else None
    if init and not init.is_file():
        yield Finding(f'init={config.init!r}: neither a weights file nor a model of the zoo that has trained weights')
        init = None
    for key, path in (('init', init), *weights.items()):
        try:
            if path:
                load_weights(network, path)
        except (ValueError, OSError) as error:
            yield Finding(f'{key}={getattr(config, key)!r}: {error}')


def _load(args: argparse.Namespace):
    from plugins.overrides import parse_overrides
    return load_recipe(args.recipe, parse_overrides(args.overrides))
