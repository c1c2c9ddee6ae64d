"""Embedding a whole source of faces, in memory of one batch of images."""

from __future__ import annotations

import numpy as np

from plugins.data.sources import FaceSource, read_faces
from plugins.preprocess import FaceError, l2_normalise
from zoo.progress import progress_bar
from zoo.runtime.embedder import Embedder, embed_batches

__all__ = ['Collapsed', 'embed_faces']


class Collapsed(FaceError):
    """A network gives every face the same embedding."""


def embed_faces(embedder: Embedder, faces: FaceSource, flip: bool = True, batch_size: int = 64, label: str = '',
                progress: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """L2-normalised embeddings float64 ``(N, D)`` and norms before that ``(N, 1 + flip)`` of all faces.

    Raises:
        FaceError: a face is damaged or of another size, or embeddings are not finite.
        Collapsed: all faces get the same embedding.
    """
    rows = np.array_split(np.arange(len(faces)), max(1, -(-len(faces) // batch_size)))
    batches = (read_faces(faces, batch, embedder.preprocess.input_size) for batch in rows)
    sums, norms = [], []
    with progress_bar(len(faces), 'faces', label, enabled=progress) as bar:
        for embeddings, norm in embed_batches(embedder, batches, flip):
            sums.append(embeddings)
            norms.append(norm)
            bar.update(len(embeddings))
    embeddings = l2_normalise(np.concatenate(sums))
    if not np.isfinite(embeddings).all():
        raise FaceError(f'{embedder.name}: embeddings are not finite')
    if len(embeddings) > 1 and np.ptp(embeddings, axis=0).max() < 1e-4:
        raise Collapsed(f'{embedder.name}: all {len(embeddings)} faces get the same embedding; the model is broken')
    return embeddings, np.concatenate(norms)
