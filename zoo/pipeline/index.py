"""Searches for the largest cosine: a matrix product for most galleries, FAISS for very large ones.

``benchmarks/gallery.py`` compares them, and others, at a million persons.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Protocol

import numpy as np

from plugins.files import atomic_path

__all__ = ['EXACT_UP_TO', 'ExactIndex', 'FaissIndex', 'Index', 'make_index']

EXACT_UP_TO = 200_000  # persons; 0.4 GB of 512 numbers
_SCORES = 2 ** 24  # in a table at once, lest it outgrows the memory
_TRAIN = 100_000  # rows from which the quantisers are made
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
        file: where the index is kept; made anew when it does not belong to ``rows``.

    Raises:
        MissingExtra: FAISS is not installed.
    """

    AGAIN = 200  # candidates for each answer that are compared with 8 bits

    def __init__(self, rows: np.ndarray, file: str | os.PathLike | None = None) -> None:
        from plugins.extras import require
        self._faiss = require('faiss', 'faiss')
        rows = np.ascontiguousarray(rows, np.float32)
        kind = f'PQ{rows.shape[1] // 2}x4fs,Refine(SQ8)'
        head = {'format': 'facezoo index 1', 'kind': kind, 'persons': len(rows), 'rows': hashlib.sha256(rows).hexdigest()}
        self._index = self._read(Path(file), head) if file else None
        if self._index is None:
            _LOG.info('building the index of %d persons; it is kept for the next time', len(rows))
            self._index = self._build(rows, kind)
            if file:
                self._write(Path(file), head)
        self._index.k_factor = self.AGAIN

    def search(self, probes: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        return self._index.search(np.ascontiguousarray(probes, np.float32), top)

    def _build(self, rows: np.ndarray, kind: str):
        index = self._faiss.index_factory(rows.shape[1], kind, self._faiss.METRIC_INNER_PRODUCT)
        index.train(rows[::max(1, len(rows) // _TRAIN)])
        index.add(rows)
        return index

    def _read(self, file: Path, head: dict):
        """What :meth:`_write` kept, or None: there is nothing, or of other rows, or it is damaged."""
        try:
            with open(file, 'rb') as stream:
                if json.loads(stream.readline()) != head:
                    return None
                return self._faiss.read_index(self._faiss.PyCallbackIOReader(stream.read))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RuntimeError) as error:
            _LOG.warning('%s: cannot be read (%s); the index is built again', file, str(error).splitlines()[0])
            return None

    def _write(self, file: Path, head: dict) -> None:
        try:
            with atomic_path(file) as temporary, open(temporary, 'wb') as stream:
                stream.write(json.dumps(head).encode() + b'\n')
                self._faiss.write_index(self._index, self._faiss.PyCallbackIOWriter(stream.write))
        except OSError as error:
            _LOG.warning('%s: cannot be written (%s); the index will be built at every start', file, error)


def make_index(rows: np.ndarray, file: str | os.PathLike | None = None) -> Index:
    """The index for so many rows: exact as long as that is fast; otherwise FAISS's, kept in ``file``."""
    return ExactIndex(rows) if len(rows) <= EXACT_UP_TO else FaissIndex(rows, file)
