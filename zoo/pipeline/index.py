"""Searches for the largest cosine: a matrix product for most galleries, FAISS for very large ones."""

from __future__ import annotations

from typing import Protocol

import numpy as np

__all__ = ['EXACT_UP_TO', 'ExactIndex', 'FaissIndex', 'Index', 'make_index']

EXACT_UP_TO = 200_000  # persons; 0.4 GB of 512 numbers, about 50 ms a probe on one core
_SCORES = 2 ** 24  # in a table at once, lest it outgrows the memory


class Index(Protocol):
    """Scores and row numbers, both ``(F, top)``, best first, of the rows most similar to probes ``(F, D)`` of unit length."""

    def search(self, probes: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]: ...


class ExactIndex:
    """All rows ``(P, D)``, compared one with all."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = np.ascontiguousarray(rows, np.float32)

    def search(self, probes: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        block = max(1, _SCORES // len(self.rows))
        parts = [self._search(probes[i:i + block], top) for i in range(0, len(probes), block)]
        scores, rows = zip(*parts, strict=True) if parts else ([np.empty((0, top))], [np.empty((0, top), int)])
        return np.concatenate(scores), np.concatenate(rows)

    def _search(self, probes: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        table = probes @ self.rows.T
        rows = np.argpartition(table, -top, axis=1)[:, -top:]
        order = np.take_along_axis(rows, np.argsort(-np.take_along_axis(table, rows, 1), axis=1, kind='stable'), 1)
        return np.take_along_axis(table, order, 1), order


class FaissIndex:
    """FAISS's graph index (HNSW, Malkov and Yashunin 2018): approximate, in logarithmic time.

    Raises:
        MissingExtra: FAISS is not installed.
    """

    def __init__(self, rows: np.ndarray, links: int = 32, effort: int = 128) -> None:
        from plugins.extras import require
        faiss = require('faiss', 'faiss')
        self._index = faiss.IndexHNSWFlat(rows.shape[1], links, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efSearch = effort
        self._index.add(np.ascontiguousarray(rows, np.float32))

    def search(self, probes: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        return self._index.search(np.ascontiguousarray(probes, np.float32), top)


def make_index(rows: np.ndarray) -> Index:
    """The index for so many rows: exact as long as that is fast."""
    return ExactIndex(rows) if len(rows) <= EXACT_UP_TO else FaissIndex(rows)
