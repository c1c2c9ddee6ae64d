"""What InsightFace's trainer would do silently, or fail at hours later, said before it starts."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from plugins.data.check import Finding, check_recipe
from plugins.preprocess import FaceError

__all__ = ['check_training']

_REQUIRED = ('rec', 'num_classes', 'num_image', 'num_epoch', 'warmup_epoch', 'val_targets')
_MOMENTUM = 0.9  # written in train_v2.py
_UNLISTED = ('notes',)  # read, but not in configs/base.py


def check_training(config: Mapping, checkout: Path) -> list[str]:
    """Check the recipe that ``train_v2.py`` is about to read; ``configs`` must be importable.

    Returns:
        Notes for the user: keys that InsightFace ignores, validation sets that it would skip without a word.

    Raises:
        FaceError: the recipe and its data do not fit, or InsightFace's trainer cannot do what the recipe asks for.
    """
    missing = [key for key in _REQUIRED if key not in config]
    if missing:
        raise FaceError(f'the recipe lacks {", ".join(missing)}, which {checkout}/train_v2.py reads')
    base = importlib.import_module('configs.base').config
    read = {key: value for key, value in config.items() if key in base or key in (*_REQUIRED, *_UNLISTED)}
    findings = [*_check_abilities({**base, **config}), *_check_defaults(config, base), *check_recipe(read, arcface_torch=True)]
    ignored = {key: value for key, value in config.items() if key not in read}
    if ignored:
        words = ', '.join(f'{key}={value!r}' for key, value in ignored.items())
        findings.append(Finding(f'train_v2.py does not know {words}: it trains with scale 64, a linear decay of the learning '
                                'rate and mirroring only; `facezoo train` follows the recipe', serious=False))
    serious = [finding.text for finding in findings if finding.serious]
    if serious:
        raise FaceError('\n'.join(serious))
    return [finding.text for finding in findings]


def _check_defaults(config: Mapping, base: Mapping) -> Iterator[Finding]:
    """What the trainer does about keys that it has and does not heed, or that the recipe leaves out."""
    if config.get('momentum', _MOMENTUM) != _MOMENTUM:
        yield Finding(f'train_v2.py does not heed momentum={config["momentum"]}: its SGD has {_MOMENTUM}', serious=False)
    if config.get('using_wandb') and 'notes' not in config:
        yield Finding("using_wandb=True: train_v2.py reads `notes`, too, and goes on without W&B when the recipe has none; add "
                      "notes=''", serious=False)
    if 'output' not in config and base.get('output') is not None:
        yield Finding(f'the recipe has no `output`, so train_v2.py writes to {base["output"]}, where other such recipes write, '
                      'too; add output=None for work_dirs/NAME', serious=False)


def _check_abilities(config: Mapping) -> Iterator[Finding]:
    """What the trainer cannot do, or would do wrongly."""
    m1, m2, m3 = config['margin_list']
    if m1 != 1 or (m3 != 0 and (m2 != 0 or m3 < 0)):
        yield Finding(f'margin_list={(m1, m2, m3)}: train_v2.py knows (1, m, 0) and (1, 0, m) only; when the third margin is '
                      'set, it ignores the others')
    if config['optimizer'] not in ('sgd', 'adamw'):
        yield Finding(f'optimizer={config["optimizer"]!r}: train_v2.py knows only sgd and adamw')
    for key in ('verbose', 'frequent', 'gradient_acc'):
        if config.get(key, 1) < 1:
            yield Finding(f'{key}={config[key]}: train_v2.py divides by it; write a number of steps from 1')
    processes, images = int(os.environ.get('WORLD_SIZE', 1)), config['num_image']
    if config['batch_size'] <= images < config['batch_size'] * processes:
        yield Finding(f'num_image={images} is less than one batch of {config["batch_size"]} in each of {processes} processes: '
                      'train_v2.py would train nothing and save the result')
    if config.get('network_args'):
        yield Finding(f'network_args={config["network_args"]} cannot be passed to InsightFace: register a backbone built '
                      'with these options under a name of its own (docs/bring-your-own-backbone.md)')
