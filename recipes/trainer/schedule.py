"""Learning-rate schedules as pure functions of the position in the training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recipes.trainer.run import Config

__all__ = ['learning_rate']


def learning_rate(config: Config, epoch: float) -> float:
    """Learning rate at a fractional epoch: linear warm-up from 0, then ``poly``, ``cosine`` or ``step``."""
    if epoch < config.warmup_epoch:
        return config.lr * epoch / config.warmup_epoch
    if config.schedule == 'step':
        return config.lr * config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    progress = min(1.0, (epoch - config.warmup_epoch) / max(config.num_epoch - config.warmup_epoch, 1e-9))
    if config.schedule == 'cosine':
        return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * (1 - progress)
