"""Embedder on onnxruntime."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from plugins.extras import require
from zoo.runtime.embedder import read_sidecar

__all__ = ['OnnxEmbedder', 'onnx_session']


class OnnxEmbedder:
    """An ONNX recogniser with one image input and one embedding output."""

    def __init__(self, path: str | os.PathLike, threads: int = 0, providers: tuple[str, ...] = ('CPUExecutionProvider',),
                 exact: bool = False) -> None:
        self.name = str(path)
        self.session = onnx_session(path, threads, providers, exact)
        self.sidecar, self.preprocess = read_sidecar(path)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 4:
            raise ValueError(f'{path}: {len(inputs)} inputs and {len(outputs)} outputs; a recogniser has one of each')
        self._input, self._output = inputs[0].name, outputs[0].name
        self._fixed_batch = isinstance(inputs[0].shape[0], int)
        size = self.preprocess.input_size
        if any(isinstance(side, int) and side != size for side in inputs[0].shape[2:]):
            raise ValueError(f'{path}: input {inputs[0].shape} does not fit the {size}x{size} crops of its preprocessing')
        shape = outputs[0].shape
        self.num_features = shape[-1] if isinstance(shape[-1], int) else self(np.zeros((1, size, size, 3), np.uint8)).size

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        x = self.preprocess(faces)
        batches = x[:, None] if self._fixed_batch else [x]
        return np.concatenate([self.session.run([self._output], {self._input: b})[0].reshape(len(b), -1) for b in batches])


def onnx_session(path: str | os.PathLike | bytes, threads: int = 0, providers: tuple[str, ...] = ('CPUExecutionProvider',),
                 exact: bool = False):
    """An ``onnxruntime.InferenceSession`` whose threads do not spin while idle.

    Args:
        path: a file, or a serialised model.
        exact: run the graph as it is written, rounding where it says so: no fusion of Q/DQ pairs into integer kernels.

    Raises:
        FileNotFoundError: no such file.
        RuntimeError: a provider was asked for that onnxruntime cannot give (it would silently fall back to the CPU).
    """
    ort = require('onnxruntime', 'onnx')
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
        return ort.InferenceSession(path if serialised else str(path), options, providers=list(providers))
    except Exception as error:
        raise ValueError(f'{"model" if serialised else path}: onnxruntime cannot load it: {error}') from None
