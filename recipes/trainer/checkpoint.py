"""Saving and restoring a training so that an interruption leaves no trace in the result."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from plugins.files import atomic_path

if TYPE_CHECKING:
    from recipes.trainer.run import Config

__all__ = ['CheckpointError', 'load_checkpoint', 'not_finite', 'plain', 'save_checkpoint']

_LOG = logging.getLogger(__name__)
# keys that may change between the two halves of a training without changing what is computed
_FREE = frozenset({'resume', 'output', 'num_workers', 'save_minutes', 'frequent', 'verbose', 'val_targets', 'device', 'compile',
                   'explode',
                   'precision',  # of another machine, as the device is; logged
                   'batch_size',  # with the number of processes, the world batch is compared instead
                   'rec'})  # what lies there is compared instead
_LOWER = frozenset({'lr', 'clip'})  # may be lowered: the way on for a training that diverged


class CheckpointError(ValueError):
    """A checkpoint is damaged or belongs to another recipe."""


def save_checkpoint(path: Path, config: Config, world_batch: int, data: Mapping, **state) -> None:
    """Write ``state`` and the recipe; the previous checkpoint stays until the new one is whole.

    Args:
        world_batch: images a step, over all processes.
        data: what the training learns from, as plain values, see :func:`load_checkpoint`.
    """
    with atomic_path(path) as temporary:
        torch.save({'config': asdict(config), 'world_batch': world_batch, 'data': dict(data), **state}, temporary)


def load_checkpoint(path: Path, config: Config, world_batch: int, data: Mapping) -> dict:
    """The saved state of a training with the same recipe, data and images a step, on any number of processes.

    A lower ``lr`` or ``clip`` is accepted, and logged: with the same ones a training that diverged would do so again. So is
    another ``precision``: another machine may compute in that.

    Raises:
        CheckpointError: none there, damaged, or saved by a different recipe or with other data; the message lists what differs.
    """
    if not path.is_file():
        raise CheckpointError(f'{path}: no checkpoint to resume from; start with resume=false')
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:
        raise CheckpointError(f'{path}: cannot be read ({type(error).__name__}: {error})') from None
    if not isinstance(state, dict) or not {'config', 'world_batch', 'images', 'student'} <= set(state):
        raise CheckpointError(f'{path}: not a checkpoint of `facezoo train`; to start from weights, use init=FILE')
    if changed := _changes(path, state, config, world_batch, data):
        raise CheckpointError(f'{path} was saved by a different recipe ({"; ".join(changed)}); '
                              'use the old values, or another output')
    return state


def _changes(path: Path, state: dict, config: Config, world_batch: int, data: Mapping) -> list[str]:
    """What would be computed otherwise than in the saved training, in words; what may change is logged."""
    now, then = asdict(config), state['config']
    lowered = {key for key in _LOWER & set(now) if now[key] < then[key]}
    for key in sorted(lowered):
        _LOG.warning('%s: goes on with %s %g instead of %g', path, key, now[key], then[key])
    if now['precision'] != then['precision']:
        _LOG.warning('%s: goes on with precision %s instead of %s', path, now['precision'], then['precision'])
    changed = [f'{key}: {then.get(key)!r} -> {now[key]!r}' for key in now
               if key not in _FREE | lowered and plain(now[key]) != plain(then.get(key))]
    before = state.get('data', {})
    changed += [f'{key}: {before[key]} -> {value}' for key, value in data.items() if before.get(key, value) != value]
    if unknown := [key for key in data if key not in before]:
        _LOG.warning('%s: saved by an earlier version of facezoo, without %s; whether these have changed is not checked', path,
                     ', '.join(unknown))
    if state['world_batch'] != world_batch:
        changed.append(f'images a step: {state["world_batch"]} -> {world_batch} (batch_size times the number of processes)')
    return changed


def plain(value: object) -> object:
    """Tuples to the lists that a command line or YAML makes of them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


def not_finite(state: Mapping, prefix: str = '') -> Iterator[str]:
    """Names of the tensors of a nested state that hold something else than numbers."""
    for key, value in state.items():
        if isinstance(value, Mapping):
            yield from not_finite(value, f'{prefix}{key}.')
        elif isinstance(value, torch.Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            yield f'{prefix}{key}'
