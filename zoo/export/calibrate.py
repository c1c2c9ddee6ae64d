"""Activation ranges on real faces: what every INT8 form of a model is made from, measured without a GPU.

Every tensor of the ONNX graph gets a histogram of absolute values; a method turns the histogram into the largest value
that 8 bits are to represent (``amax``). One calibration feeds TensorRT's cache, NCNN's table and the Q/DQ graph.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from plugins.data.sources import open_faces, read_faces, spread
from plugins.preprocess import FaceError, Preprocess
from zoo.export.graph import Activations, Graph
from zoo.progress import progress_bar

__all__ = ['METHODS', 'Calibration', 'CalibrationError', 'Histogram', 'calibration_faces', 'fit_ranges', 'measure_histograms']

BINS, LEVELS = 2048, 128
MIN_IMAGES = 32
DEAD = 1e-6  # a tensor or channel that never exceeds this says nothing; 1 / amax would overflow (ncnn#3022)


class CalibrationError(ValueError):
    """There are no faces to calibrate on, or they do not exercise the network."""


class Histogram:
    """Histogram of absolute values whose range doubles when a larger value comes, so that one pass suffices."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.width = 0.0  # of a bin
        self.absmax = 0.0

    def add(self, values: np.ndarray) -> None:
        """Count float values of any shape.

        Raises:
            CalibrationError: one of them is not finite.
        """
        values = np.abs(values).ravel()
        largest = float(values.max(initial=0.0))
        if not np.isfinite(largest):
            raise CalibrationError('an activation is not finite; the weights are damaged')
        self.absmax = max(self.absmax, largest)
        if largest == 0.0 and not self.width:
            return
        if not self.width:
            self.width = largest / BINS * (1 + 1e-6)
        while largest >= self.width * BINS:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)])
            self.width *= 2
        self.counts += np.bincount((values * np.float32(1 / self.width)).astype(np.int32).clip(max=BINS - 1), minlength=BINS)

    @property
    def centres(self) -> np.ndarray:
        """Centre of each bin, float64 ``(2048,)``."""
        return (np.arange(BINS) + 0.5) * self.width


def _minmax(histogram: Histogram) -> float:
    return histogram.absmax


def _percentile(histogram: Histogram) -> float:
    """What 99.99 % of the values do not exceed."""
    cumulated = np.cumsum(histogram.counts)
    return (np.searchsorted(cumulated, 99.99 / 100 * cumulated[-1]) + 1) * histogram.width


def _mse(histogram: Histogram) -> float:
    """The clipping that gives the least squared error, among 1/128 steps of the largest value."""
    candidates = histogram.absmax * np.arange(16, LEVELS + 1) / LEVELS
    x, counts = histogram.centres, histogram.counts
    step = candidates[:, None] / 127
    error = (np.rint(np.minimum(x, candidates[:, None]) / step) * step - x) ** 2 @ counts
    return float(candidates[error.argmin()])


def _entropy(histogram: Histogram) -> float:
    """Least Kullback-Leibler divergence between the clipped and the 128-level distribution (Migacz, GTC 2017; TensorRT's
    entropy calibration). Bin 0 is levelled with bin 1: the zeros behind a ReLU cost nothing to represent."""
    counts = histogram.counts.astype(np.float64)
    counts[0] = min(counts[0], counts[1])
    last = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else BINS
    divergences = {}
    for end in range(LEVELS, max(last, LEVELS) + 1):
        clipped = counts[:end].copy()
        used = clipped > 0
        level = np.minimum(np.arange(end) * LEVELS // end, LEVELS - 1)
        mass, members = np.bincount(level, clipped, LEVELS), np.bincount(level, used, LEVELS)
        coarse = (mass / np.maximum(members, 1))[level] * used
        clipped[-1] += counts[end:].sum()
        divergences[end] = _divergence(clipped, coarse)
    return (min(divergences, key=divergences.get) + 0.5) * histogram.width


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q) over the bins where p has mass; where q lost it, q counts as 1e-12."""
    p, q = p / p.sum(), q / max(q.sum(), 1e-30)
    occupied = p > 0
    q = np.maximum(q[occupied], 1e-12)
    return float((p[occupied] * np.log(p[occupied] / q)).sum())


METHODS: dict[str, Callable[[Histogram], float]] = {
    'entropy': _entropy, 'percentile': _percentile, 'mse': _mse, 'minmax': _minmax}


@dataclass(frozen=True)
class Calibration:
    """Ranges of a model's tensors and how they were found.

    Attributes:
        method: key of :data:`METHODS`.
        amax: largest absolute value to represent, by tensor; at least 1e-6 (see ``dead``).
        absmax: largest absolute value seen, by tensor.
        dead: tensors that were zero on every face; their range was clamped.
        images: number of faces; images_sha256: digest over the faces' pixels, in order.
        preprocess: what the faces went through.
    """

    method: str
    amax: dict[str, float]
    absmax: dict[str, float]
    images: int
    images_sha256: str
    preprocess: dict
    dead: tuple[str, ...] = ()

    def range_of(self, tensor: str) -> float:
        """Largest absolute value to represent of a tensor.

        Raises:
            CalibrationError: it has none.
        """
        if tensor not in self.amax:
            raise CalibrationError(f'the calibration has no range for {tensor}: it belongs to another model or export; '
                                   'calibrate again')
        return self.amax[tensor]

    def to_json(self) -> str:
        """The whole calibration, as it lies beside an artefact."""
        return json.dumps({**asdict(self), 'tensors': len(self.amax)}, indent=1) + '\n'

    @property
    def sha256(self) -> str:
        """Digest of everything that shapes the integers; part of an engine's key."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def fit_ranges(histograms: dict[str, Histogram], faces: np.ndarray, preprocess: Preprocess, method: str) -> Calibration:
    """Ranges by a method from the histograms that :func:`measure_histograms` made of the same faces.

    Args:
        method: key of :data:`METHODS`.
    """
    dead = tuple(name for name, h in histograms.items() if h.absmax < DEAD)
    amax = {name: DEAD if name in dead else max(DEAD, min(float(METHODS[method](h)), h.absmax))
            for name, h in histograms.items()}
    return Calibration(method, amax, {name: h.absmax for name, h in histograms.items()}, len(faces),
                       hashlib.sha256(np.ascontiguousarray(faces)).hexdigest(), preprocess.to_dict(), dead)


def measure_histograms(graph: Graph, faces: np.ndarray, preprocess: Preprocess, batch_size: int = 8) -> dict[str, Histogram]:
    """Histogram of every activation of a graph, by tensor name.

    Args:
        faces: uint8 RGB ``(N, S, S, 3)``, or pictures of one size for a detector; N at least 32, 500 to 1000 are what users of
            TensorRT take.

    Raises:
        CalibrationError: too few faces, or an activation that is not finite.
    """
    if len(faces) < MIN_IMAGES:
        raise CalibrationError(f'{len(faces)} faces to calibrate on; at least {MIN_IMAGES} are needed, 500 are better')
    activations = Activations(graph)
    histograms = {name: Histogram() for name in activations.names}
    batches = np.array_split(np.arange(len(faces)), -(-len(faces) // batch_size))
    with progress_bar(len(faces), 'faces', 'calibration') as bar:
        for rows in batches:
            for name, values in activations(preprocess(faces[rows])):
                histograms[name].add(values)
            bar.update(len(rows))
    return histograms


def calibration_faces(path: str | os.PathLike, count: int, size: int) -> np.ndarray:
    """``count`` faces spread evenly over a source (all of a smaller one), uint8 RGB ``(N, size, size, 3)``.

    Raises:
        FileNotFoundError: nothing is there.
        FaceError: no faces in it, or faces of another size.
    """
    source = open_faces(path)
    if not len(source):
        raise FaceError(f'{path}: no faces to calibrate on')
    return read_faces(source, spread(source, count), size)
