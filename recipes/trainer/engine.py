"""The training loop, on Lightning Fabric: CPU or GPU, one process or many (``torchrun``)."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from plugins.data.augment import Augment
from plugins.data.check import check_counts
from plugins.data.datasets import Batch, FaceDataset, FaceSampler, face_loader
from plugins.data.degrade import Degrade
from plugins.data.sources import FaceSource, open_faces
from plugins.losses.margin import margin_at
from plugins.preprocess import FaceError
from recipes.config import RecipeError, TrainConfig
from recipes.trainer.checkpoint import load_checkpoint, not_finite, save_checkpoint
from recipes.trainer.cpu import avoid_strided_depthwise
from recipes.trainer.log import TrainLog
from recipes.trainer.run import (
    Diverged,
    Interrupted,
    LossWatch,
    any_process,
    begin_run,
    diverged,
    make_optimizer,
    moving_average,
    save_recipe,
    stop_signal,
    world_batch,
)
from recipes.trainer.schedule import learning_rate
from recipes.trainer.student import Student
from recipes.trainer.teacher import fingerprint, open_teacher, teacher_size
from zoo.evaluate.embed import Collapsed
from zoo.evaluate.verification import load_verification_set, verify
from zoo.model_card import preprocess_of
from zoo.runtime.torch import TorchEmbedder
from zoo.weights import load_weights, save_weights

__all__ = ['Diverged', 'Interrupted', 'Trainer']

_LOG = logging.getLogger(__name__)


class Trainer:
    """One run of a recipe.

    Raises:
        RecipeError, FaceError, CheckpointError: the recipe, the data or the checkpoint do not fit; nothing was written.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.output = config, Path(config.output)
        self.fabric = begin_run(config)
        self.world_batch = world_batch(self.fabric, config)
        self.preprocess = preprocess_of(config.network)
        size = self.preprocess.input_size
        source = open_faces(config.rec)
        _check_data(config, source)
        self.dataset = FaceDataset(source, teacher_size(config, size), Augment(**config.augment),
                                   Degrade(**config.degrade) if config.degrade else None, config.views, config.seed, size)
        self.val_sets = [load_verification_set(_find_val(config, name)) for name in config.val_targets]
        self.fabric.seed_everything(config.seed, verbose=False)
        self.raw = Student(config, self.preprocess, source.num_classes)
        if config.init:
            load_weights(self.raw.backbone, config.init)
        if self.fabric.device.type == 'cpu' and config.precision == 'bf16':
            avoid_strided_depthwise(self.raw.backbone)
        self.raw.to(self.fabric.device)  # before the optimiser and the average, whose state is where the weights are
        self.optimizer = make_optimizer(config, self.raw)
        self.ema = moving_average(self.raw.backbone, config.ema)
        self.images = 0  # seen so far, over all processes
        self.best, self.saved_step = -1.0, None
        self.watch = LossWatch(config.explode)
        self.data = {'images': len(source), 'identities': source.num_classes, 'fingerprint': fingerprint(source)}
        if config.resume:
            self._restore()
        self.student, self.optimizer = self.fabric.setup(self.raw, self.optimizer)
        self.teacher = open_teacher(config, self.raw, self.dataset) if config.teachers else None

    def fit(self) -> dict:
        """Train to the end.

        Returns:
            The last verification result of each set by name.

        Raises:
            Interrupted: SIGINT or SIGTERM came; a checkpoint was written.
            Diverged: loss, gradient or weights are no longer numbers, or the loss explodes; the message names the batch, and
                the last checkpoint is good.
        """
        config = self.config
        sampler = FaceSampler(len(self.dataset), config.batch_size, config.num_epoch, config.seed,
                              self.images // self.world_batch, self.fabric.global_rank, self.fabric.world_size)
        per_epoch, step = sampler.steps_per_epoch, sampler.start
        save_recipe(self.fabric, config)
        self.total = per_epoch * config.num_epoch
        self.log = TrainLog(self.output, self.total * self.world_batch, step, self.world_batch, self.fabric.is_global_zero)
        saved, results, verified = time.monotonic(), {}, -1
        began, began_images = saved, self.images
        with stop_signal() as stop:
            for batch in face_loader(self.dataset, sampler, config.num_workers):
                losses = self._step(batch, step, per_epoch)
                step += 1
                self.images = step * self.world_batch
                self.log.bar.update(self.world_batch)
                if step % config.frequent == 0:
                    now = time.monotonic()
                    rate = (self.images - began_images) / (now - began)
                    began, began_images = now, self.images
                    self.log.write(step, epoch=step / per_epoch, **self._over_processes(losses),
                                   lr=self.optimizer.param_groups[0]['lr'], rate=rate)
                if step % (config.verbose or per_epoch) == 0:
                    results, verified = self._verify(step), step
                    began, began_images = time.monotonic(), self.images
                if step % config.gradient_acc:
                    continue  # gradients are not saved
                stopping = any_process(self.fabric, bool(stop))
                if stopping or time.monotonic() - saved > 60 * config.save_minutes:
                    self._save()
                    saved = time.monotonic()
                if stopping:
                    self.log.close()
                    raise Interrupted(f'stopped after {self.images} images; go on with resume=true')
        if verified != step:
            results = self._verify(step)
        self._save()
        self.log.close()
        return results

    def _step(self, batch: Batch, step: int, per_epoch: int) -> dict[str, float]:
        """One forward and backward pass, and an optimiser step when its turn comes."""
        batch, epoch = Batch(*(tensor.to(self.fabric.device) for tensor in batch)), step / per_epoch
        # dropout is a function of the step, so that a resumed training drops what an uninterrupted one would
        torch.manual_seed((self.config.seed * self.fabric.world_size + self.fabric.global_rank << 32) + step)
        seen = self.teacher(batch, int(epoch)) if self.teacher else None
        for group in self.optimizer.param_groups:
            group['lr'] = learning_rate(self.config, epoch)
        if self.raw.head is not None:
            self.raw.head.margins = margin_at(self.config.margin_list, self.config.margin_end, epoch / self.config.num_epoch)
        self.student.train()
        due = (step + 1) % self.config.gradient_acc == 0 or step + 1 == self.total
        with nullcontext() if due else self.fabric.no_backward_sync(self.student):
            try:
                losses = self.student(batch.images, batch.labels, seen)
            except ValueError as error:
                where = self.dataset.source.name(int(batch.indices[0]))
                raise FaceError(f'{self.config.rec}: {error} (batch of {where})') from None
            loss = sum(losses.values())
            if wrong := self.watch(loss.item()):
                raise self._diverged(wrong, step, batch, losses)
            self.fabric.backward(loss / self.config.gradient_acc)
        if due:
            norm = self.fabric.clip_gradients(self.student, self.optimizer, max_norm=self.config.clip, error_if_nonfinite=False)
            if not torch.isfinite(norm):
                raise self._diverged(f'the norm of the gradient is {norm.item()}', step, batch, losses)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.ema:
                self.ema.update_parameters(self.raw.backbone)
        return {key: value.item() for key, value in losses.items()}

    def _diverged(self, what: str, step: int, batch: Batch, losses: dict[str, Tensor]) -> Diverged:
        parts = ', '.join(f'{key} {value.item():.4g}' for key, value in losses.items())
        names = ', '.join(self.dataset.source.name(int(i)) for i in batch.indices[:3])
        return diverged(self.output, what, step, f'{parts}; batch of {names}, ...', self.saved_step)

    def _over_processes(self, losses: dict[str, float]) -> dict[str, float]:
        """Means over the processes, which have equal shares of a step's images."""
        if self.fabric.world_size == 1:
            return losses
        means = self.fabric.all_reduce(torch.tensor([*losses.values()], device=self.fabric.device))
        return dict(zip(losses, means.tolist(), strict=True))

    @property
    def final(self) -> nn.Module:
        """The backbone whose weights count: the average when there is one."""
        return self.ema.module if self.ema else self.raw.backbone

    def _verify(self, step: int) -> dict:
        """Measure on every validation set, keep the weights if they are the best so far."""
        results = {}
        if self.fabric.is_global_zero:
            embedder = TorchEmbedder(self.raw.as_deployed(self.final), self.preprocess, self.config.network,
                                     bf16=self.config.precision == 'bf16')
            try:
                results = {data.name: verify(embedder, data).to_dict() for data in self.val_sets}
            except Collapsed as error:  # usual in the first steps, before BatchNorm's averages have settled
                _LOG.warning('step %d: %s; not measured', step, error)
            for name, result in results.items():
                self.log.write(step, **{f'{name}/{key}': value for key, value in result.items()})
                _LOG.info('step %d: %s accuracy %.4f, TAR@FAR1e-3 %.4f', step, name, result['accuracy'], result['tar@1e-3'])
            score = sum(result['accuracy'] for result in results.values()) / max(len(results), 1)
            if results and score > self.best:
                self.best = score
                self._save_weights('best.safetensors')
        self.fabric.barrier()
        return results

    def _save_weights(self, name: str) -> None:
        save_weights(self.output / name, self.final, self.config.network, self.config.network_args)

    def _save(self) -> None:
        """Write checkpoint and weights, unless they are no longer numbers: the last good ones stay."""
        step = self.images // self.world_batch
        state = {'student': self.raw.state_dict(), 'optimizer': self.optimizer.state_dict(),
                 'ema': self.ema.state_dict() if self.ema else None}
        if broken := next(not_finite(state), None):
            raise diverged(self.output, f'{broken} is no longer finite', step, 'nothing was saved', self.saved_step)
        if self.fabric.is_global_zero:
            save_checkpoint(self.output / 'checkpoint.pt', self.config, self.world_batch, self.data, images=self.images,
                            best=self.best, first_loss=self.watch.first, **state)
            self._save_weights('last.safetensors')
        self.saved_step = step

    def _restore(self) -> None:
        state = load_checkpoint(self.output / 'checkpoint.pt', self.config, self.world_batch, self.data)
        self.raw.load_state_dict(state['student'])
        self.optimizer.load_state_dict(state['optimizer'])
        if self.ema:
            self.ema.load_state_dict(state['ema'])
        self.images, self.best, self.watch.first = state['images'], state['best'], state.get('first_loss')
        self.saved_step = self.images // self.world_batch


def _check_data(config: TrainConfig, source: FaceSource) -> None:
    if config.margin_weight and source.num_classes < 2:
        raise FaceError(f'{config.rec}: {source.num_classes} identities; a margin head needs at least 2')
    for finding in check_counts(asdict(config), source):
        raise RecipeError(finding.text)


def _find_val(config: TrainConfig, name: str) -> Path:
    """``lfw`` -> ``<rec>/lfw.bin``; a path stays a path."""
    path = Path(config.rec) / f'{name}.bin'
    if not path.exists():
        path = Path(name)
    if not path.exists():
        raise RecipeError(f'val_targets: neither {Path(config.rec) / name}.bin nor {name} exists; '
                          'leave it out or put the set there')
    return path
