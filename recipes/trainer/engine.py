"""The training loop, on Lightning Fabric: CPU or GPU, one process or many (``torchrun``)."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from plugins.data.augment import Augment
from plugins.data.check import check_counts
from plugins.data.datasets import Batch, FaceDataset, face_loader
from plugins.data.degrade import Degrade
from plugins.data.sources import FaceSource, open_faces
from plugins.losses.margin import margin_at
from plugins.preprocess import FaceError, Preprocess
from recipes.config import RecipeError, TrainConfig
from recipes.trainer.cpu import avoid_strided_depthwise
from recipes.trainer.run import Interrupted, Run, make_optimizer, moving_average, stop_signal
from recipes.trainer.schedule import learning_rate
from recipes.trainer.student import Student
from recipes.trainer.teacher import fingerprint_model, open_teacher, teacher_size
from zoo.evaluate.embed import Collapsed
from zoo.evaluate.verification import load_verification_set, verify
from zoo.hub import weights_path
from zoo.model_card import preprocess_of
from zoo.runtime.torch import TorchEmbedder
from zoo.weights import load_weights

__all__ = ['Trainer']

_LOG = logging.getLogger(__name__)


class Trainer(Run):
    """One run of a recipe.

    Raises:
        RecipeError, FaceError, CheckpointError: the recipe, the data or the checkpoint do not fit; nothing was written.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        config = self.config
        self.preprocess = preprocess_of(config.network)
        if not isinstance(self.preprocess, Preprocess):
            raise RecipeError(f"network={config.network!r} detects faces, it does not recognise them; a detector's recipe has "
                              "task='detection'")
        size = self.preprocess.input_size
        source = open_faces(config.rec)
        _check_data(config, source)
        self.dataset = FaceDataset(source, teacher_size(config.teachers, size), Augment(**config.augment),
                                   Degrade(**config.degrade) if config.degrade else None, config.views, config.seed, size)
        self.val_sets = [load_verification_set(_find_val(config, name)) for name in config.val_targets]
        self.fabric.seed_everything(config.seed, verbose=False)
        self.raw = Student(config, self.preprocess, source.num_classes)
        if config.init:
            load_weights(self.raw.backbone, weights_path(config.init))
        if self.fabric.device.type == 'cpu' and config.precision == 'bf16':
            avoid_strided_depthwise(self.raw.backbone)
        self.raw.to(self.fabric.device)  # before the optimiser and the average, whose state is where the weights are
        self.optimizer = make_optimizer(config, self.raw)
        self.ema = moving_average(self.raw.backbone, config.ema)
        self.best = -1.0
        self.data = {'images': len(source), 'identities': source.num_classes, 'digest of the faces': self.dataset.fingerprint,
                     **{f'digest of {name}': fingerprint_model(name) for name in (*config.teachers, config.init) if name}}
        if config.resume:
            state = self._restore()
            if tuple(state['config']['val_targets']) == tuple(config.val_targets):  # accuracies on other sets do not compare
                self.best = state['best']
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
        sampler, self.log = self._open()
        per_epoch, step = sampler.steps_per_epoch, sampler.start
        self.total = per_epoch * config.num_epoch
        results, verified = {}, -1
        with stop_signal() as stop:
            for batch in face_loader(self.dataset, sampler, config.num_workers):
                losses = self._step(batch, step, per_epoch)
                step += 1
                self.images = step * self.world_batch
                self.log.advance()
                if step % config.frequent == 0:
                    self.log.write(step, epoch=step / per_epoch, **self._over_processes(losses),
                                   lr=self.optimizer.param_groups[0]['lr'], rate=self.log.rate())
                if step % (config.verbose or per_epoch) == 0:
                    results, verified = self._verify(step), step
                    self.log.rate()  # asked now, so that the time which this took does not count
                if step % config.gradient_acc:
                    continue  # gradients are not saved
                if self._stops(stop, best=self.best):
                    self.log.close()
                    raise Interrupted(f'stopped after {self.images} images; go on with resume=true')
        if verified != step:
            results = self._verify(step)
        self._save(best=self.best)
        self.log.close()
        return results

    def _step(self, batch: Batch, step: int, per_epoch: int) -> dict[str, float]:
        """One forward and backward pass, and an optimiser step when its turn comes."""
        batch, epoch = Batch(*(tensor.to(self.fabric.device) for tensor in batch)), step / per_epoch
        # dropout is a function of the step, so that a resumed training drops what an uninterrupted one would
        seed = (self.config.seed * self.fabric.world_size + self.fabric.global_rank) % 2 ** 32
        torch.manual_seed((seed << 32) + step)
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
            loss, words = sum(losses.values()), partial(self._words, batch, losses)
            self._check_loss(loss.item(), step, words)
            self.fabric.backward(loss / self.config.gradient_acc)
        if due:
            self._update(step, words)
        return {key: value.item() for key, value in losses.items()}

    def _words(self, batch: Batch, losses: dict[str, Tensor]) -> str:
        parts = ', '.join(f'{key} {value.item():.4g}' for key, value in losses.items())
        return f'{parts}; batch of {", ".join(self.dataset.source.name(int(i)) for i in batch.indices[:3])}, ...'

    def _over_processes(self, losses: dict[str, float]) -> dict[str, float]:
        """Means over the processes, which have equal shares of a step's images."""
        if self.fabric.world_size == 1:
            return losses
        means = self.fabric.all_reduce(torch.tensor([*losses.values()], device=self.fabric.device))
        return dict(zip(losses, means.tolist(), strict=True))

    @property
    def trained(self) -> nn.Module:
        return self.raw.backbone

    def _verify(self, step: int) -> dict:
        """Measure on every validation set, keep the weights if they are the best so far."""
        self._finite_state()
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


def _check_data(config: TrainConfig, source: FaceSource) -> None:
    if (config.margin_weight or config.centre_weight) and source.num_classes < 2:
        raise FaceError(f'{config.rec}: {source.num_classes} identities; a head (margin_weight) and the centre loss '
                        '(centre_weight) need at least 2')
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
