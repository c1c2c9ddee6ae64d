"""Teachers for embedding distillation: one or several recognisers, their embeddings cached on disk per view of each face.

Several teachers are joined by concatenating their L2-normalised embeddings, whose inner product is the mean of the teachers'
cosine similarities. When the length is not the student's, the (uncentred) principal directions over a sample of training
faces, or an orthonormal lift, bring it there while keeping the similarities.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from plugins.data.datasets import FaceDataset
from plugins.data.sources import FaceSource, read_faces
from plugins.files import atomic_path, sha256_file
from plugins.preprocess import FaceError, l2_normalise
from zoo.hub import cache_folder
from zoo.progress import progress_bar
from zoo.runtime import open_embedder

__all__ = ['Teacher']

_LOG = logging.getLogger(__name__)
_SAMPLE = 4096


class Teacher:
    """Target embeddings for batches of a :class:`FaceDataset`.

    Args:
        paths: teachers, as :func:`zoo.runtime.open_embedder` takes them.
        num_features: length of the student's embedding.
        dataset: the training faces; its seed and augmentation are part of the cache's key.
        views: cache the embeddings of so many views (0: compute always).
    """

    def __init__(self, paths: tuple[str, ...], num_features: int, dataset: FaceDataset, views: int = 0) -> None:
        threads = torch.get_num_threads()
        self.models = [open_embedder(path, threads=threads) for path in paths]
        for model in self.models:
            if model.preprocess.input_size != dataset.size:
                raise FaceError(f'teacher {model.name} wants {model.preprocess.input_size}-pixel faces, the student '
                                f'{dataset.size}; they must see the same crop')
        self.length, self.views = sum(model.num_features for model in self.models), views
        self._dataset = dataset
        key = json.dumps([[_fingerprint_model(path) for path in paths], fingerprint(dataset.source), dataset.seed,
                          vars(dataset.augment), num_features])
        self._folder = cache_folder() / 'teachers' / hashlib.sha256(key.encode()).hexdigest()[:16]
        self._maps: dict[int, np.memmap] = {}
        self._projection = self._load_projection(num_features)

    def __call__(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Targets float32 ``(N, num_features)`` (not normalised) for uint8 RGB ``(N, S, S, 3)`` faces of one epoch."""
        if not self.views:
            return torch.from_numpy(self._embed(images.numpy()) @ self._projection)
        table, rows = self._view(epoch % self.views), indices.numpy()
        joined = np.asarray(table[rows], np.float32)
        missing = np.isnan(joined[:, 0])
        if missing.any():
            joined[missing] = self._embed(images.numpy()[missing])
            table[rows[missing]] = joined[missing]
        return torch.from_numpy(joined @ self._projection)

    def _embed(self, faces: np.ndarray) -> np.ndarray:
        return np.concatenate([l2_normalise(model(faces)) for model in self.models], 1)

    def _view(self, view: int) -> np.memmap:
        """The cached embeddings of one view, NaN where not yet computed."""
        if view not in self._maps:
            path = self._folder / f'view-{view:03d}.npy'
            if not path.exists():
                with atomic_path(path) as temporary, open(temporary, 'wb') as file:
                    np.lib.format.write_array_header_1_0(file, {
                        'descr': '<f2', 'fortran_order': False, 'shape': (len(self._dataset), self.length)})
                    row = np.full(self.length, np.nan, '<f2').tobytes()
                    for _ in range(len(self._dataset)):
                        file.write(row)
            self._maps[view] = np.load(path, mmap_mode='r+')
        return self._maps[view]

    def _load_projection(self, num_features: int) -> np.ndarray:
        """Float32 ``(length, num_features)`` that keeps inner products as well as its rank allows."""
        if self.length == num_features:
            return np.eye(num_features, dtype=np.float32)
        path = self._folder / 'projection.npy'
        if not path.exists():
            with atomic_path(path) as temporary, open(temporary, 'wb') as file:
                np.save(file, self._fit_projection(num_features))
        return np.load(path)

    def _fit_projection(self, num_features: int) -> np.ndarray:
        if self.length < num_features:
            random = np.random.default_rng(0).standard_normal((num_features, self.length))
            return np.linalg.qr(random)[0].T.astype(np.float32)
        source, size = self._dataset.source, self._dataset.size
        sample = np.random.default_rng(0).permutation(len(source))[:_SAMPLE]
        joined = []
        with progress_bar(len(sample), 'faces', 'teacher directions') as bar:
            for batch in np.array_split(sample, -(-len(sample) // 64)):
                joined.append(self._embed(read_faces(source, batch, size)))
                bar.update(len(batch))
        values, directions = np.linalg.eigh(np.cov(np.concatenate(joined), rowvar=False, bias=True)
                                            + np.outer(m := np.concatenate(joined).mean(0), m))
        kept = values[-num_features:].sum() / values.sum()
        _LOG.info('teachers: %d dimensions projected to %d, %.2f %% of the energy kept', self.length, num_features, 100 * kept)
        return directions[:, ::-1][:, :num_features].astype(np.float32)


def _fingerprint_model(path: str | os.PathLike) -> str:
    path = Path(path)
    files = sorted(p for p in path.iterdir() if p.suffix in ('.param', '.bin')) if path.is_dir() else [path]
    return '-'.join(sha256_file(file)[:16] for file in files)


def fingerprint(source: FaceSource) -> str:
    """Digest of a data set: its length and 64 of its images, evenly spread."""
    digest = hashlib.sha256(str(len(source)).encode())
    for index in np.linspace(0, len(source) - 1, 64).astype(int):
        digest.update(source.read(int(index))[0])
    return digest.hexdigest()
