"""Faces to embeddings on an engine."""

import numpy as np

from .engine import EngineError

__all__ = ['Recogniser', 'unit']


class Recogniser:
    """Aligned faces to embeddings.

    Args:
        engine: with one output.
        preprocess: the mapping from ``bundle.json``: input_size, mean, std, colour.
        num_features: length of an embedding.
    """

    def __init__(self, engine, preprocess, num_features):
        self.engine, self.preprocess, self.num_features = engine, preprocess, num_features

    def __call__(self, faces):
        """uint8 RGB ``(N, S, S, 3)`` to float32 ``(N, D)``, not normalised, in batches of what the engine takes.

        Raises:
            EngineError: no such faces, or the engine could not run.
        """
        size = self.preprocess['input_size']
        if faces.dtype != np.uint8 or faces.ndim != 4 or faces.shape[1:] != (size, size, 3):
            raise EngineError('faces must be uint8 RGB (N, %d, %d, 3), aligned; these are %s %s'
                              % (size, size, faces.dtype, faces.shape))
        step = self.engine.largest[0]
        parts = [self.engine(self.prepare(faces[i:i + step])) for i in range(0, len(faces), step)]
        rows = [output.reshape(len(output), -1) for part in parts for output in part.values()]
        return np.concatenate([np.empty((0, self.num_features), np.float32), *rows])

    def prepare(self, faces):
        """uint8 RGB ``(N, S, S, 3)`` to the engine's float32 ``(N, 3, S, S)``."""
        if self.preprocess['colour'] == 'BGR':
            faces = faces[..., ::-1]
        scaled = (faces.astype(np.float32) - self.preprocess['mean']) / self.preprocess['std']
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def unit(embeddings):
    """Rows scaled to length 1; their products are cosine similarities."""
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), np.finfo(np.float32).tiny)
