"""Saving and restoring a training so that an interruption leaves no trace in the result."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from plugins.files import atomic_path
from recipes.config import TrainConfig

__all__ = ['CheckpointError', 'load_checkpoint', 'save_checkpoint']

# keys that may change between the two halves of a training without changing what is computed
_FREE = frozenset({'resume', 'output', 'num_workers', 'save_minutes', 'frequent', 'verbose', 'val_targets', 'device', 'compile',
                   'batch_size'})  # batch_size: with the number of processes, the world batch is compared instead


class CheckpointError(ValueError):
    """A checkpoint is damaged or belongs to another recipe."""


def save_checkpoint(path: Path, config: TrainConfig, world_batch: int, **state) -> None:
    """Write ``state`` and the recipe; the previous checkpoint stays until the new one is whole.

    Args:
        world_batch: images a step, over all processes.
    """
    with atomic_path(path) as temporary:
        torch.save({'config': asdict(config), 'world_batch': world_batch, **state}, temporary)


def load_checkpoint(path: Path, config: TrainConfig, world_batch: int) -> dict:
    """The saved state of a training with the same recipe and as many images a step, on any number of processes.

    Raises:
        CheckpointError: none there, damaged, or saved by a different recipe; the message lists the keys that differ.
    """
    if not path.is_file():
        raise CheckpointError(f'{path}: no checkpoint to resume from; start with resume=false')
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:
        raise CheckpointError(f'{path}: cannot be read ({type(error).__name__}: {error})') from None
    now, then = asdict(config), state['config']
    changed = [f'{key}: {then.get(key)!r} -> {now[key]!r}' for key in now if key not in _FREE and now[key] != then.get(key)]
    if state['world_batch'] != world_batch:
        changed.append(f'images a step: {state["world_batch"]} -> {world_batch} (batch_size times the number of processes)')
    if changed:
        raise CheckpointError(f'{path} was saved by a different recipe ({"; ".join(changed)}); '
                              'use the old values, or another output')
    return state
