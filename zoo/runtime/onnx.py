"""Embedder and detector on onnxruntime."""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path

import numpy as np

from plugins.extras import require
from plugins.preprocess import PictureNorm
from zoo.runtime.embedder import read_sidecar, score_of

__all__ = ['OnnxDetector', 'OnnxEmbedder', 'onnx_session', 'require_order']

_LOG = logging.getLogger(__name__)
_CPU = ('CPUExecutionProvider',)


class OnnxEmbedder:
    """An ONNX recogniser with one image input and one embedding output.

    Args:
        providers, exact: see :func:`onnx_session`.

    Raises:
        ValueError: the file has other inputs or outputs, a fixed batch above 1, or another size than its preprocessing.
        RuntimeError: onnxruntime cannot run it: it takes grey pictures, or another type than float32.
    """

    def __init__(self, path: str | os.PathLike, threads: int = 0, providers: tuple[str, ...] = _CPU, exact: bool = False
                 ) -> None:
        self.name = str(path)
        self.sidecar, self.preprocess = read_sidecar(path)
        self.session = onnx_session(path, threads, providers, exact)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 4:
            raise ValueError(f'{path}: {len(inputs)} inputs and {len(outputs)} outputs; a recogniser has one of each')
        self._input, self._output = inputs[0].name, outputs[0].name
        self._fixed_batch = isinstance(inputs[0].shape[0], int)
        if self._fixed_batch and inputs[0].shape[0] != 1:
            raise ValueError(f'{path}: takes {inputs[0].shape[0]} faces at a time, no more and no fewer; export it with a '
                             'dynamic batch, or for one face')
        size = self.preprocess.input_size
        if any(isinstance(side, int) and side != size for side in inputs[0].shape[2:]):
            raise ValueError(f'{path}: input {inputs[0].shape} does not fit the {size}x{size} crops of its preprocessing')
        shape = outputs[0].shape  # maps of one pixel, (N, 512, 1, 1), are embeddings, too
        known = len(shape) == 2 and isinstance(shape[1], int)
        self.num_features = shape[1] if known else self(np.zeros((1, size, size, 3), np.uint8)).size

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        x = self.preprocess(faces)
        if not len(x):
            return np.empty((0, self.num_features), np.float32)
        batches = x[:, None] if self._fixed_batch else [x]
        return np.concatenate([self._run(batch).reshape(len(batch), -1) for batch in batches])

    def _run(self, x: np.ndarray) -> np.ndarray:
        try:
            return self.session.run([self._output], {self._input: x})[0]
        except Exception as error:  # onnxruntime has kinds of its own
            raise RuntimeError(f'{self.name}: onnxruntime cannot run it on float32 {x.shape}, which a recogniser takes: '
                               f'{error}') from None


class OnnxDetector:
    """An ONNX detector of InsightFace's contract (see :class:`zoo.runtime.detector.DetectorNet`), facezoo's or InsightFace's
    own.

    Raises:
        ValueError: the file has other outputs, or in another order, or a fixed input that is not square.
    """

    def __init__(self, path: str | os.PathLike, threads: int = 0, providers: tuple[str, ...] = _CPU, exact: bool = False
                 ) -> None:
        self.name = str(path)
        self.sidecar, self.preprocess = read_sidecar(path)[0], PictureNorm()
        self.session = onnx_session(path, threads, providers, exact)
        self.score = score_of(self.sidecar)
        taken = self.session.get_inputs()[0]
        self._input, self.side = taken.name, _fixed_side(path, taken.shape[2:])
        outputs = self.session.get_outputs()
        levels, rest = divmod(len(outputs), 3)
        if rest or levels not in (3, 4, 5):
            raise ValueError(f'{path}: {3 * levels + rest} outputs; a detector has 9, 12 or 15: scores, boxes and landmarks of '
                             'every stride (a recogniser has one output; a detector without landmarks cannot align faces)')
        require_order(path, outputs)
        self.strides = tuple(8 << level for level in range(levels))

    def __call__(self, pictures: np.ndarray) -> list[np.ndarray]:
        outputs = self.session.run(None, {self._input: self.preprocess(pictures)})
        return [o.reshape(len(pictures), -1, o.shape[-1]) for o in outputs]


def require_order(path: str | os.PathLike, outputs: list) -> None:
    """Refuse a detector whose outputs say that they are not all scores, then all boxes, then all landmarks.

    Raises:
        ValueError: they are in another order, or other things.
    """
    widths = [output.shape[-1] if output.shape else None for output in outputs]
    expected = np.repeat((1, 4, 10), len(widths) // 3)
    if any(isinstance(width, int) and width != kind for width, kind in zip(widths, expected, strict=True)):
        raise ValueError(f'{path}: outputs {", ".join(o.name for o in outputs)} of {widths} numbers; a detector has '
                         'all scores (1), then all boxes (4), then all landmarks (10): export it in that order')


def _fixed_side(path: str | os.PathLike, sides: list) -> int | None:
    """The side of the pictures that a graph is fixed to; None for one that takes any."""
    if not any(isinstance(side, int) for side in sides):
        return None
    if len(sides) == 2 and sides[0] == sides[1]:
        return sides[0]
    raise ValueError(f'{path}: takes pictures of {"x".join(map(str, sides))} pixels only; export it with free height and '
                     'width, or for square pictures')


def onnx_session(path: str | os.PathLike | bytes, threads: int = 0, providers: tuple[str, ...] = _CPU, exact: bool = False):
    """An ``onnxruntime.InferenceSession`` whose threads do not spin while idle, without slow PRelu nodes on the CPU.

    Args:
        path: a file, or a serialised model.
        exact: run the graph as it is written, rounding where it says so: no fusion of Q/DQ pairs into integer kernels.

    Raises:
        FileNotFoundError: no such file.
        RuntimeError: a provider was asked for that onnxruntime cannot give (it would silently fall back to the CPU).
        ValueError: onnxruntime refuses the file.
    """
    ort = require('onnxruntime', 'runtime')
    serialised = isinstance(path, bytes)
    if not serialised and not Path(path).is_file():
        raise FileNotFoundError(f'{path}: no such ONNX file')
    missing = set(providers) - set(ort.get_available_providers())
    if missing:
        raise RuntimeError(f'onnxruntime here has no {sorted(missing)}, only {ort.get_available_providers()}; '
                           'install the onnxruntime package built for that device')
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    if exact:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        if not exact and tuple(providers) == _CPU:  # a list, too, as InsightFace's users write it
            path = _without_prelu(path)
        session = ort.InferenceSession(path if isinstance(path, bytes) else str(path), options, providers=list(providers))
    except Exception as error:
        raise ValueError(f'{"model" if serialised else path}: onnxruntime cannot load it: {error}') from None
    if missing := set(providers) - set(session.get_providers()):  # built in, but without its driver or libraries here
        raise RuntimeError(f'onnxruntime could not start {sorted(missing)} and went on with {session.get_providers()}; its '
                           'driver or libraries (CUDA, cuDNN) are missing, or of another version')
    return session


def _without_prelu(path: str | os.PathLike | bytes) -> str | os.PathLike | bytes:
    """The model with its PRelu nodes replaced, as bytes; what was given when there is none."""
    from zoo.runtime.prelu import replace_prelu
    try:
        onnx = require('onnx', 'onnx')
    except ImportError:
        if b'PRelu' in (path if isinstance(path, bytes) else Path(path).read_bytes()):
            _say_slow()
        return path
    model = onnx.load_from_string(path) if isinstance(path, bytes) else onnx.load(str(path))
    return model.SerializeToString() if replace_prelu(model) else path


@cache  # once a process
def _say_slow() -> None:
    _LOG.info("networks with PReLU take about twice the time in onnxruntime without the package onnx: "
              "pip install 'facezoo[runtime]'")
