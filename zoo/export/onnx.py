"""ONNX export: BatchNorm folded, simplified, truly dynamic batch, one input, one output.

Opset 13 and IR 7 are what the oldest target (TensorRT 8.2 on Jetson TX2) documents. Nodes are renamed: InsightFace guesses
the normalisation from node *names* (``Sub*`` and ``Mul*`` among the first eight mean "already inside the graph").
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from plugins.extras import require
from plugins.files import write_atomic
from zoo.export.fold import fold_batchnorm
from zoo.export.graph import store_constants

__all__ = ['INPUT', 'IR_VERSION', 'OPSET', 'OUTPUT', 'export_onnx', 'to_onnx', 'trace_onnx']

OPSET, IR_VERSION = 13, 7
INPUT, OUTPUT = 'image', 'embedding'


def export_onnx(model: nn.Module, path: str | os.PathLike) -> None:
    """Write a backbone as ONNX; see :func:`to_onnx`."""
    write_atomic(path, to_onnx(model).SerializeToString())


def to_onnx(model: nn.Module):
    """A backbone as ``onnx.ModelProto``: ``image`` float32 ``(N, 3, H, W)`` to ``embedding`` float32 ``(N, num_features)``.

    Raises:
        RuntimeError: the graph is not at the asked opset, or onnxsim could not confirm the simplified graph.
        ValueError: the model puts out several tensors.
    """
    folded = fold_batchnorm(model).to('cpu', memory_format=torch.contiguous_format)
    graph = trace_onnx(folded, torch.zeros(2, 3, *model.input_size), [OUTPUT], {INPUT: {0: 'N'}, OUTPUT: {0: 'N'}})
    if len(graph.graph.output) != 1:
        raise ValueError(f'{type(model).__name__} puts out {len(graph.graph.output)} tensors; a recogniser puts out one, its '
                         'embeddings (N, num_features)')
    versions = {entry.domain: entry.version for entry in graph.opset_import}
    if versions != {'': OPSET}:
        raise RuntimeError(f'the exporter wrote opsets {versions}, asked for {OPSET}')
    _reshape_slopes(graph)
    require('onnx', 'onnx').checker.check_model(graph)
    return graph


def trace_onnx(net: nn.Module, sample: Tensor, outputs: Sequence[str], axes: Mapping[str, Mapping[int, str]]):
    """Trace a network of one input into a simplified ``onnx.ModelProto`` of opset 13 and IR 7.

    Args:
        sample: float32 ``(N, 3, H, W)`` to trace with.
        outputs: their names; the input is called ``image``.
        axes: which axes of input and outputs are dynamic, and what they are called.

    Raises:
        RuntimeError: onnxsim could not confirm the simplified graph.
    """
    onnx, onnxsim = require('onnx', 'onnx'), require('onnxsim', 'onnx')
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter('ignore')  # the TorchScript exporter is deprecated, but only it writes opset 13
        torch.onnx.export(net, sample, buffer, dynamo=False, opset_version=OPSET, input_names=[INPUT],
                          output_names=list(outputs), dynamic_axes=axes)
    graph, confirmed = onnxsim.simplify(onnx.load_from_string(buffer.getvalue()))
    if not confirmed:
        raise RuntimeError('onnxsim changed what the graph computes; please report the model')
    store_constants(graph.graph)
    for index, node in enumerate(graph.graph.node):
        node.name = f'node{index}_{node.op_type}'
    graph.ir_version = IR_VERSION
    return graph


def _reshape_slopes(model) -> None:
    """PReLU slopes ``(C, 1, 1)`` as ``(1, C, 1, 1)``, the rank of what they act on: TensorRT then adds no Shuffle layer."""
    slopes = {node.input[1] for node in model.graph.node if node.op_type == 'PRelu'}
    for tensor in model.graph.initializer:
        if tensor.name in slopes and len(tensor.dims) == 3:
            tensor.dims.insert(0, 1)
