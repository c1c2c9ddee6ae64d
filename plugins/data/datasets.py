"""Torch side of the data: a dataset of augmented faces and a sampler that can start anywhere in a training."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from plugins.data.augment import Augment
from plugins.data.sources import FaceSource, decode_face

__all__ = ['FaceDataset', 'FaceSampler', 'face_loader']


class FaceDataset(Dataset):
    """Augmented faces. Item ``(view, index)`` is a pure function of ``(seed, view, index)``, whatever the worker.

    Yields batches ``(images uint8 RGB (N, S, S, 3), labels int64 (N,), indices int64 (N,))``.
    """

    def __init__(self, source: FaceSource, size: int = 112, augment: Augment | None = None, seed: int = 0) -> None:
        self.source, self.size, self.augment, self.seed = source, size, augment or Augment(), seed

    def __len__(self) -> int:
        return len(self.source)

    def load(self, view: int, index: int) -> tuple[np.ndarray, int]:
        """One augmented face and its identity."""
        rng = np.random.default_rng((self.seed, view, index))
        image, label = decode_face(self.source, index, self.size)
        if self.augment.mixup and rng.random() < self.augment.mixup:
            other, other_label = decode_face(self.source, int(rng.integers(len(self.source))), self.size)
            image = self.augment.blend(image, other, rng)
            label = label if label == other_label else -1
        return self.augment(image, rng), label

    def __getitems__(self, items: list[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
        images = torch.empty((len(items), self.size, self.size, 3), dtype=torch.uint8)
        labels = torch.empty(len(items), dtype=torch.int64)
        for row, (view, index) in enumerate(items):
            image, labels[row] = self.load(view, index)
            images.numpy()[row] = image
        return images, labels, torch.tensor([index for _, index in items])


class FaceSampler(Sampler):
    """Batches of ``(view, index)`` from step ``start`` to the end of the training, the same for any start.

    Every epoch is a fresh permutation of ``(seed, epoch)``; its incomplete last batch is dropped, as InsightFace does.

    Args:
        views: number of distinct augmentations of a face; the view of an epoch is ``epoch % views`` (0: always new).
        rank, world: this process takes every ``world``-th batch, from ``rank``.
    """

    def __init__(self, length: int, batch_size: int, epochs: int, seed: int = 0, views: int = 0, start: int = 0,
                 rank: int = 0, world: int = 1) -> None:
        self.steps_per_epoch = length // (batch_size * world)
        if not self.steps_per_epoch:
            raise ValueError(f'{length} images are fewer than one batch of {batch_size} on {world} processes; '
                             'lower batch_size')
        self.length, self.batch_size, self.epochs, self.seed = length, batch_size, epochs, seed
        self.views, self.start, self.rank, self.world = views, start, rank, world

    def __len__(self) -> int:
        return self.steps_per_epoch * self.epochs - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first_epoch, first_step = divmod(self.start, self.steps_per_epoch)
        for epoch in range(first_epoch, self.epochs):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
            view = epoch % self.views if self.views else epoch
            for step in range(first_step if epoch == first_epoch else 0, self.steps_per_epoch):
                begin = (step * self.world + self.rank) * self.batch_size
                yield [(view, int(index)) for index in order[begin:begin + self.batch_size]]


def face_loader(dataset: FaceDataset, sampler: FaceSampler, workers: int) -> DataLoader:
    """Loader over all remaining steps of a training; a worker's exception reaches the trainer with its traceback."""
    # here and not in the workers: a forked worker that shuts down OpenCV's inherited thread pool waits for ever
    cv2.setNumThreads(1)
    return DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=_as_is,
                      prefetch_factor=4 if workers else None)


def _as_is(batch):
    return batch
