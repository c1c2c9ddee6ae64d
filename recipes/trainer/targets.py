"""From the joined embeddings of teachers to targets of the student's length, cosine similarities kept as well as can be.

Any rotation of the targets keeps the similarities. A student that begins from weights gets the one nearest to what it gives
already; in the coordinates of other teachers, or of another sample of faces, it would have to learn its last layers anew.
"""

from __future__ import annotations

import logging

import numpy as np

from plugins.preprocess import l2_normalise

__all__ = ['lift', 'principal', 'turn']

_LOG = logging.getLogger(__name__)
_KNOWN = 0.5  # mean cosine from which a student is said to know its targets; that of unrelated directions is 0


def lift(length: int, num_features: int) -> np.ndarray:
    """Float32 ``(length, num_features)`` with orthonormal rows; the identity when both are the same."""
    if length == num_features:
        return np.eye(num_features, dtype=np.float32)
    random = np.random.default_rng(0).standard_normal((num_features, length))
    return np.linalg.qr(random)[0].T.astype(np.float32)


def principal(joined: np.ndarray, num_features: int) -> np.ndarray:
    """The (uncentred) principal directions ``(length, num_features)`` float32 of embeddings ``(N, length)``."""
    faces = joined.astype(np.float64)
    values, directions = np.linalg.eigh(faces.T @ faces / len(faces))
    kept = values[-num_features:].sum() / values.sum()
    _LOG.info('teachers: %d dimensions projected to %d, %.2f %% of the energy kept', joined.shape[1], num_features, 100 * kept)
    return directions[:, ::-1][:, :num_features].astype(np.float32)


def turn(projection: np.ndarray, joined: np.ndarray, known: np.ndarray) -> np.ndarray:
    """``projection`` rotated so that the targets of the faces come nearest to ``known`` (orthogonal Procrustes problem,
    Schönemann 1966); unchanged when the student knows its targets already, since others may rely on those coordinates.

    Args:
        projection: ``(length, D)``; joined: ``(N, length)``, the teachers' embeddings of some faces.
        known: L2-normalised embeddings ``(N, D)`` of the same faces by the student.
    """
    targets = l2_normalise(joined @ projection)
    before = _cosine(targets, known)
    if before > _KNOWN:
        return projection
    left, _, right = np.linalg.svd(targets.T @ known)
    turned = (projection @ (left @ right)).astype(np.float32)
    _LOG.info("targets turned into the coordinates of the student's first weights: mean cosine %.3f instead of %.3f",
              _cosine(l2_normalise(joined @ turned), known), before)
    return turned


def _cosine(targets: np.ndarray, known: np.ndarray) -> float:
    return float((targets * known).sum(1).mean())
