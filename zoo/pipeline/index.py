"""Searches for the largest cosine: a matrix product for most galleries, FAISS for very large ones.

``benchmarks/gallery.py`` compares them, and others, at a million persons. Graphs (HNSW) are not among them: a face has one near
neighbour and all others are about equally far, so that a greedy walk has little to follow; it found five of six.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from typing import Protocol

import numpy as np

from plugins.extras import require
from plugins.files import atomic_path

__all__ = ['EXACT_UP_TO', 'ExactIndex', 'FaissIndex', 'Index', 'make_index']

EXACT_UP_TO = 100_000  # persons; 0.2 GB of 512 numbers and about 20 ms a probe on one core of a server
_SCORES = 2 ** 24  # in a table at once, lest it outgrows the memory
_TRAIN = 100_000  # rows from which the quantisers are made
_FORMAT = 'facezoo index 1'
_LOG = logging.getLogger(__name__)


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
    """All rows, compared as 4-bit codes (product quantisation by fast scan, André et al. 2017), the best ones again with 8 bits
    a number: 640 bytes a person of 512 numbers instead of 2048, and no graph to build.

    Scores are within 0.005 of the exact cosine, mostly within 0.001.

    Args:
        rows: ``(P, D)`` of unit length, D even.

    Raises:
        MissingExtra: FAISS is not installed.
    """

    AGAIN = 200  # candidates for each answer that are compared with 8 bits

    def __init__(self, rows: np.ndarray) -> None:
        faiss = require('faiss', 'faiss')
        kind = f'PQ{rows.shape[1] // 2}x4fs,Refine(SQ8)'
        self._index = faiss.index_factory(rows.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
        rows = np.ascontiguousarray(rows, np.float32)
        self._index.train(rows[::max(1, len(rows) // _TRAIN)])
        self._index.add(rows)
        self._index.k_factor = self.AGAIN

    def __len__(self) -> int:
        """Number of rows."""
        return self._index.ntotal

    def search(self, probes: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        return self._index.search(np.ascontiguousarray(probes, np.float32), top)

    def save(self, file: str | os.PathLike, stamp: list) -> None:
        """Keep it for :meth:`load`, with the permissions of the gallery ``NAME`` of a file ``NAME.index``: it holds the same
        faces. Where nothing can be written, a warning says so.

        Args:
            stamp: what the rows are known by, plain values for JSON.
        """
        faiss = require('faiss', 'faiss')
        try:
            with atomic_path(file, like=os.fspath(file).removesuffix('.index')) as temporary, open(temporary, 'wb') as stream:
                stream.write(json.dumps([_FORMAT, stamp]).encode() + b'\n')
                faiss.write_index(self._index, faiss.PyCallbackIOWriter(stream.write))
        except OSError as error:
            _LOG.warning('%s: cannot be written (%s); the index will be built at every start', file, error)

    @classmethod
    def load(cls, file: str | os.PathLike, stamp: list) -> FaissIndex | None:
        """What :meth:`save` kept under this stamp; None when there is nothing, or of other rows, or it is damaged."""
        faiss = require('faiss', 'faiss')
        try:
            with open(file, 'rb') as stream:
                if json.loads(stream.readline()) != [_FORMAT, stamp]:
                    return None
                found = cls.__new__(cls)
                found._index = faiss.read_index(faiss.PyCallbackIOReader(stream.read))
                return found
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RuntimeError) as error:
            _LOG.warning('%s: cannot be read (%s); the index is built again', file, str(error).splitlines()[0])
            return None


def make_index(persons: int, rows: Callable[[], np.ndarray], file: str | os.PathLike | None = None,
               stamp: list | None = None) -> Index:
    """The index for so many persons: exact as long as that is fast; otherwise FAISS's.

    Args:
        rows: gives the rows ``(persons, D)``; not asked when an index was kept.
        file, stamp: where FAISS's index is kept, and what the rows are known by; None keeps nothing.
    """
    if persons <= EXACT_UP_TO:
        return ExactIndex(rows())
    kept = FaissIndex.load(file, stamp) if stamp else None
    if kept and len(kept) == persons:
        return kept
    _LOG.info('building the index of %d persons', persons)
    made = FaissIndex(rows())
    if stamp:
        made.save(file, stamp)
    return made
