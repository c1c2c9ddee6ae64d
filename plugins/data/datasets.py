"""Torch side of the data: a dataset of augmented faces and a sampler that can start anywhere in a training."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from functools import cached_property, partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from plugins.data.augment import Augment
from plugins.data.degrade import Degrade
from plugins.data.recordio import RecordError
from plugins.data.sources import FaceSource, decode_face, fingerprint, shrink_crop
from plugins.preprocess import FaceError

__all__ = ['Batch', 'FaceDataset', 'FaceSampler', 'face_loader']


class Batch(NamedTuple):
    """A batch of faces.

    Attributes:
        images: uint8 RGB ``(N, S, S, 3)``, what the student sees.
        labels: int64 ``(N,)``, -1 where the identity is unknown.
        indices: int64 ``(N,)`` into the data set.
        clean: what a teacher sees: the same faces, before degradation and at the teacher's size (``images`` itself when
            there is no difference).
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    clean: Tensor


class FaceDataset(Dataset):
    """Augmented faces. Item ``(epoch, index)`` is a pure function of it and the seed, whatever the worker.

    Args:
        size: side of the crops that are augmented, and that a teacher sees.
        augment: seen by student and teacher alike.
        degrade: seen by the student only, new in every epoch.
        views: number of distinct augmentations of a face; the view of an epoch is ``epoch % views`` (0: always new).
        student_size: side of the crops that the student sees, when it is smaller than ``size``.

    Raises:
        FaceError: crops of ``size`` pixels are too small for a factor of ``degrade``.
    """

    def __init__(self, source: FaceSource, size: int = 112, augment: Augment | None = None, degrade: Degrade | None = None,
                 views: int = 0, seed: int = 0, student_size: int | None = None) -> None:
        self.source, self.size, self.augment, self.degrade = source, size, augment or Augment(), degrade
        self.views, self.seed, self.student_size = views, seed, student_size or size
        if degrade:
            degrade.check(size)

    def __len__(self) -> int:
        return len(self.source)

    @cached_property
    def fingerprint(self) -> str:
        """See :func:`plugins.data.sources.fingerprint`; made once, since it reads a thousand images."""
        return fingerprint(self.source)

    def view(self, epoch: int) -> int:
        """Which augmentation of its faces an epoch shows."""
        return epoch % self.views if self.views else epoch

    def load(self, epoch: int, index: int) -> tuple[np.ndarray, int]:
        """One augmented face and its identity, before degradation."""
        rng = np.random.default_rng((self.seed, self.view(epoch), index))
        image, label = decode_face(self.source, index, self.size)
        if self.augment.mixup and rng.random() < self.augment.mixup:
            other, other_label = decode_face(self.source, int(rng.integers(len(self.source))), self.size)
            image = self.augment.blend(image, other, rng)
            label = label if label == other_label else -1
        return self.augment(image, rng), label

    def __getitems__(self, items: list[tuple[int, int]]) -> Batch:
        clean = torch.empty((len(items), self.size, self.size, 3), dtype=torch.uint8)
        own = self.degrade or self.student_size != self.size
        images = torch.empty((len(items), self.student_size, self.student_size, 3), dtype=torch.uint8) if own else clean
        labels = torch.empty(len(items), dtype=torch.int64)
        for row, (epoch, index) in enumerate(items):
            image, labels[row] = self.load(epoch, index)
            clean.numpy()[row] = image
            if self.degrade:
                image = self.degrade(image, np.random.default_rng((self.seed, epoch, index, 1)))
            if own:
                images.numpy()[row] = shrink_crop(image, self.student_size)
        return Batch(images, labels, torch.tensor([index for _, index in items]), clean)


class FaceSampler(Sampler):
    """Batches of ``(epoch, index)`` from step ``start`` to the end of the training, the same for any start.

    Every epoch is a fresh permutation of ``(seed, epoch)``; its incomplete last batch is dropped, as InsightFace does.

    Args:
        rank, world: this process takes every ``world``-th batch, from ``rank``.

    Raises:
        ValueError: there is not a batch for each process.
    """

    def __init__(self, length: int, batch_size: int, epochs: int, seed: int = 0, start: int = 0, rank: int = 0,
                 world: int = 1) -> None:
        self.steps_per_epoch = length // (batch_size * world)
        if not self.steps_per_epoch:
            raise ValueError(f'{length} images are fewer than one batch of {batch_size} on {world} processes; '
                             'lower batch_size')
        self.length, self.batch_size, self.epochs, self.seed = length, batch_size, epochs, seed
        self.start, self.rank, self.world = start, rank, world

    def __len__(self) -> int:
        return self.steps_per_epoch * self.epochs - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first_epoch, first_step = divmod(self.start, self.steps_per_epoch)
        for epoch in range(first_epoch, self.epochs):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
            for step in range(first_step if epoch == first_epoch else 0, self.steps_per_epoch):
                begin = (step * self.world + self.rank) * self.batch_size
                yield [(epoch, int(index)) for index in order[begin:begin + self.batch_size]]


class _ReturnsErrors(Dataset):
    """A data set that returns what is wrong with the data instead of raising it: PyTorch puts a worker's traceback into the
    message."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitems__(self, items: list[tuple[int, int]]) -> Batch | Exception:
        try:
            return self.dataset.__getitems__(items)
        except (FaceError, RecordError, OSError) as error:
            return error


def face_loader(dataset: Dataset, sampler: FaceSampler, workers: int) -> Iterator[Batch]:
    """Batches of all remaining steps of a training.

    Raises:
        FaceError, RecordError, OSError: of a worker that cannot read an image, as it would be without workers. Any other
            exception of a worker has its traceback in the message.
    """
    # here and not in the workers: a forked worker that shuts down OpenCV's inherited thread pool waits for ever
    cv2.setNumThreads(1)
    for batch in DataLoader(_ReturnsErrors(dataset), batch_sampler=sampler, num_workers=workers, collate_fn=_as_is,
                            worker_init_fn=partial(_outlive_signals, os.getpid()), prefetch_factor=4 if workers else None):
        if isinstance(batch, Exception):
            raise batch
        yield batch


def _outlive_signals(trainer: int, worker: int) -> None:
    """Leave stopping to the trainer: torchrun and schedulers signal its workers, too, and it still has to save.

    Args:
        trainer: its process, which need not be the worker's parent: that may be Python's fork server.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):  # macOS has none: there a worker ends with the group
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_obey, args=(trainer,), daemon=True).start()


def _obey(trainer: int) -> None:
    """End when the trainer itself says so, as Python does at its exit with workers that an error left behind."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != trainer:
        pass
    os._exit(0)


def _as_is(batch: Batch | Exception) -> Batch | Exception:
    return batch
