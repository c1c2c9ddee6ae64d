"""What the trainings of recognisers and of detectors share: how a run begins, goes on, is saved, diverges and is stopped."""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset

from plugins.data.check import check_schedule
from plugins.data.datasets import FaceSampler
from plugins.extras import require
from plugins.files import write_atomic
from recipes.config import RecipeError, TrainConfig
from recipes.detection import DetectorConfig
from recipes.trainer.checkpoint import CheckpointError, load_checkpoint, not_finite, plain, save_checkpoint
from recipes.trainer.cpu import computes_bf16, keep_layout, keep_memory
from recipes.trainer.log import TrainLog
from zoo.weights import save_weights

__all__ = ['Diverged', 'Interrupted', 'LossWatch', 'Run', 'make_optimizer', 'moving_average', 'stop_signal']

_LOG = logging.getLogger(__name__)
Config = TrainConfig | DetectorConfig


class Diverged(RuntimeError):
    """The loss, its gradient or a weight is no longer a number, or the loss explodes."""


class Interrupted(KeyboardInterrupt):
    """The training was asked to stop and has saved where it was."""


class LossWatch:
    """Notices a loss that explodes: its mean over 50 steps is above ``limit`` times that of the first 50.

    An untrained network, or the one that a training starts from, is the worst that a sane training sees; a rise from a minimum
    would be no sign, since a loss near 0 may double by chance. Of 61 trainings of this project none rose above 1.11 times.

    Attributes:
        first: mean over the first steps, once there were so many; to be kept with a checkpoint.
    """

    STEPS = 50

    def __init__(self, limit: float, first: float | None = None) -> None:
        self.limit, self.first = limit, first
        self._recent: deque[float] = deque(maxlen=self.STEPS)

    def __call__(self, loss: float) -> str | None:
        """What is wrong after another step, in words, or None."""
        if not math.isfinite(loss):
            return f'loss is {loss}'
        self._recent.append(loss)
        if len(self._recent) < self.STEPS:
            return None
        mean = sum(self._recent) / self.STEPS
        if self.first is None:
            self.first = mean
        if self.limit and mean > self.limit * self.first:
            return f'loss explodes: {mean:.4g} on average over {self.STEPS} steps, {self.first:.4g} at the beginning'
        return None

    @property
    def doubtful(self) -> bool:
        """Whether the last loss alone is above the limit: too early to stop, too late to save."""
        return bool(self.limit and self.first and self._recent and self._recent[-1] > self.limit * self.first)


class Run:
    """A training: engine, position, update, checkpoints.

    A trainer sets ``raw``, what is optimised; ``student``, the same as the engine wraps it; ``optimizer``; ``ema``, the average
    of :attr:`trained`, or None; ``dataset``, what it learns from, and ``data``, that in plain values.

    Attributes:
        config: the recipe, with the device and the precision of this machine.
        world_batch: images of a step, over all processes; images: seen so far, over all processes.
        saved_step: step of the last checkpoint, None without one.

    Raises:
        RecipeError: CUDA is asked for where there is none, or the schedule goes beyond the training.
        CheckpointError: ``output`` holds another training: a new one must not begin there.
    """

    raw: nn.Module
    student: nn.Module
    optimizer: torch.optim.Optimizer
    ema: AveragedModel | None
    dataset: Dataset
    data: Mapping

    def __init__(self, config: Config) -> None:
        for finding in check_schedule(asdict(config)):
            raise RecipeError(finding.text)
        self.config, self.output = _settle(config), Path(config.output)
        self.fabric = _begin(self.config)
        if self.fabric.is_global_zero:
            _LOG.info('computes on %s in %s', self.config.device, 'bf16' if self.config.precision == 'bf16' else 'float32')
        self.world_batch = config.batch_size * self.fabric.world_size
        self.images, self.saved_step, self._saved_at = 0, None, time.monotonic()
        self.watch = LossWatch(config.explode)

    @property
    def trained(self) -> nn.Module:
        """The network whose weights are wanted."""
        return self.raw

    @property
    def final(self) -> nn.Module:
        """The network whose weights count: the average when there is one."""
        return self.ema.module if self.ema else self.trained

    def _open(self) -> tuple[FaceSampler, TrainLog]:
        """The batches that are left, and the log of what is done with them; before them the resolved recipe is written."""
        config, fabric = self.config, self.fabric
        sampler = FaceSampler(len(self.dataset), config.batch_size, config.num_epoch, config.seed,
                              self.images // self.world_batch, fabric.global_rank, fabric.world_size)
        if fabric.is_global_zero:
            write_atomic(self.output / 'recipe.yaml', yaml.safe_dump(plain(asdict(config)), sort_keys=False))
        total = sampler.steps_per_epoch * config.num_epoch * self.world_batch
        return sampler, TrainLog(self.output, total, sampler.start, self.world_batch, fabric.is_global_zero)

    def _check_loss(self, loss: float, step: int, batch: Callable[[], str]) -> None:
        if wrong := self.watch(loss):
            raise self._diverged(wrong, step, batch())

    def _update(self, step: int, batch: Callable[[], str]) -> None:
        """A step of the optimiser and the average; ``batch`` says in words what it was."""
        norm = self.fabric.clip_gradients(self.student, self.optimizer, max_norm=self.config.clip, error_if_nonfinite=False)
        if not torch.isfinite(norm):
            raise self._diverged(f'the norm of the gradient is {norm.item()}', step, batch())
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.update_parameters(self.trained)

    def _stops(self, stop: list, **more) -> bool:
        """Whether any process was asked to stop. All of them save when one was, and every ``save_minutes``.

        They decide together: a save waits for every process, and each has its own clock. While the loss may be exploding they
        save only when asked to stop: many steps pass until that is certain, and the last checkpoint has to be from before.
        """
        late = time.monotonic() - self._saved_at > 60 * self.config.save_minutes
        stopping, late, doubtful = _any_process(self.fabric, bool(stop), late, self.watch.doubtful)
        if stopping or (late and not doubtful):
            self._save(**more)
        return stopping

    def _save(self, **more) -> None:
        """Write checkpoint and weights, unless they are no longer numbers: the last good ones stay."""
        state = self._finite_state()
        if self.fabric.is_global_zero:
            save_checkpoint(self.output / 'checkpoint.pt', self.config, self.world_batch, self.data, images=self.images,
                            first_loss=self.watch.first, **state, **more)
            self._save_weights('last.safetensors')
        self.saved_step, self._saved_at = self.images // self.world_batch, time.monotonic()
        self.fabric.barrier()

    def _finite_state(self) -> dict:
        """What a checkpoint holds of networks and optimiser, looked through: infinite statistics do not show in a loss."""
        state = {'student': self.raw.state_dict(), 'optimizer': self.optimizer.state_dict(),
                 'ema': self.ema.state_dict() if self.ema else None}
        if broken := next(not_finite(state), None):
            raise self._diverged(f'{broken} is no longer finite', self.images // self.world_batch, 'nothing was saved')
        return state

    def _save_weights(self, name: str) -> None:
        save_weights(self.output / name, self.final, self.config.network, self.config.network_args)

    def _restore(self) -> dict:
        """Go on where the checkpoint was written, which is returned."""
        state = load_checkpoint(self.output / 'checkpoint.pt', self.config, self.world_batch, self.data)
        self.raw.load_state_dict(state['student'])
        self.optimizer.load_state_dict(state['optimizer'])
        if self.ema:
            self.ema.load_state_dict(state['ema'])
        self.images, self.watch.first = state['images'], state.get('first_loss')
        self.saved_step = self.images // self.world_batch
        return state

    def _diverged(self, what: str, step: int, batch: str) -> Diverged:
        remedy = ('no checkpoint had been written: begin again with a lower lr' if self.saved_step is None else
                  f'the checkpoint of step {self.saved_step} in {self.output} is good: resume=true with a lower lr or clip')
        return Diverged(f'{what} at step {step} ({batch}); {remedy}')


def _begin(config: Config):
    """The launched ``lightning_fabric.Fabric`` of a new or resumed training; on a CPU freed memory and the memory format are
    kept from here on."""
    fabric = _make_fabric(config)
    if config.resume and fabric.is_global_zero:
        for part in Path(config.output).glob('.*.part'):  # of a save that was killed
            part.unlink()
    if not config.resume and (Path(config.output) / 'checkpoint.pt').exists():
        raise CheckpointError(f'{config.output} already holds a training; go on with resume=true, or choose another output')
    if fabric.device.type == 'cpu':
        keep_memory()
        keep_layout()
    return fabric


def _settle(config: Config) -> Config:
    """The recipe with the device and the precision that ``auto`` stands for on this machine."""
    if config.device == 'cuda' and not torch.cuda.is_available():
        raise RecipeError("device='cuda' but PyTorch sees no CUDA device; use device='cpu', or install a CUDA build of torch")
    device = 'cuda' if config.device != 'cpu' and torch.cuda.is_available() else 'cpu'
    native = 'bf16' if computes_bf16(torch.device(device)) else '32'
    return replace(config, device=device, precision=native if config.precision == 'auto' else config.precision)


def _make_fabric(config: Config):
    """CPU or GPU, one process or those of ``torchrun``."""
    fabric = require('lightning_fabric', 'train')
    processes = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    strategy = 'auto' if processes == 1 else 'ddp' if _embeds(config) else 'ddp_find_unused_parameters_true'
    made = fabric.Fabric(accelerator=config.device, devices=processes, strategy=strategy,
                         num_nodes=int(os.environ.get('GROUP_WORLD_SIZE', 1)),
                         precision='bf16-mixed' if config.precision == 'bf16' else '32-true')
    made.launch()
    return made


def _embeds(config: Config) -> bool:
    """Whether a loss reaches the last layers; attention maps alone come from those before."""
    return config.task == 'detection' or config.margin_weight > 0 or bool({'embedding', 'relation'} & set(config.distill))


def make_optimizer(config: Config, module: nn.Module) -> torch.optim.Optimizer:
    """AdamW or SGD over all parameters of a module."""
    if config.optimizer == 'adamw':
        return torch.optim.AdamW(module.parameters(), config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(module.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay,
                           nesterov=config.nesterov)


def moving_average(module: nn.Module, decay: float) -> AveragedModel | None:
    """An average over the updates of a module that forgets its untrained weights quickly: the decay at update n is
    ``min(decay, (1 + n) / (10 + n))``. None for ``decay`` 0.
    """
    if not decay:
        return None

    @torch.no_grad()
    def update(averages, values, count: Tensor) -> None:
        current = min(decay, (1 + int(count)) / (10 + int(count)))
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - current)
            else:
                average.copy_(value)
    return AveragedModel(module, multi_avg_fn=update, use_buffers=True)


def _any_process(fabric, *flags: bool) -> tuple[bool, ...]:
    """Which of the flags are set in any process: all must save, and leave the loop, at the same step."""
    if fabric.world_size == 1:
        return flags
    return tuple(map(bool, fabric.all_reduce(torch.tensor(flags, dtype=torch.float32, device=fabric.device), reduce_op='max')))


@contextmanager
def stop_signal():
    """A list that becomes non-empty when SIGINT or SIGTERM comes; a second signal is not held back."""
    received: list[int] = []
    previous = {}

    def handle(number, frame) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.getsignal(number)
        signal.signal(number, handle)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
