"""Cross-layer equalisation: channels of one tensor get one range, so that one INT8 scale fits them all.

``f(s x) = s f(x)`` for ReLU, LeakyReLU and PReLU, so a channel may be divided by ``s`` where it is made and multiplied by
``s`` where it is read without changing what the network computes (Nagel et al. 2019, "Data-Free Quantization Through Weight
Equalization and Bias Correction", section 4.1). Deviations: ranges are measured on faces instead of taken from weights, and
weights need no balancing when they are rounded per output channel, so depthwise readers are equalised completely.
"""

from __future__ import annotations

import numpy as np

from plugins.extras import require
from plugins.preprocess import Preprocess
from zoo.export.calibrate import DEAD
from zoo.export.graph import Activations, Graph, WeightLayer

__all__ = ['equalise']

_HOMOGENEOUS = frozenset({'Relu', 'LeakyRelu', 'PRelu'})
_LARGEST = 1e3  # a channel is not enlarged more than this
_BALANCE = 0.5  # of the difference between channels goes into a dense reader's weights; into a depthwise reader's goes all
_BATCH = 8


def equalise(graph: Graph, faces: np.ndarray, preprocess: Preprocess) -> Graph:
    """An equivalent graph whose activations are easier to quantise.

    Args:
        faces: uint8 RGB ``(N, S, S, 3)`` to measure channel ranges on.
    """
    pairs = [(maker, reader) for reader in graph.layers if (maker := _maker(graph, reader))]
    if not pairs:
        return graph
    ranges = _channel_ranges(graph, {layer.input for _, layer in pairs}, faces, preprocess)
    values = {name: value.copy() for name, value in graph.initializers.items()}
    nodes = {node.name: node for node in graph.nodes}
    for maker, reader in pairs:
        scale = _scales(ranges[reader.input], values[reader.weight_name], reader)
        values[maker.weight_name] /= _along(scale, 0, maker.weight.ndim)
        if len(nodes[maker.name].input) > 2:
            values[nodes[maker.name].input[2]] /= scale
        values[reader.weight_name] *= _along(scale, 0 if reader.groups > 1 else 1, reader.weight.ndim)
    model, numpy_helper = graph.copy_model(), require('onnx.numpy_helper', 'onnx')
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    return Graph(model)


def _maker(graph: Graph, reader: WeightLayer) -> WeightLayer | None:
    """The convolution whose output ``reader`` alone reads, with only homogeneous activations between them."""
    makers = {layer.output: layer for layer in graph.layers if layer.op == 'Conv'}
    tensor = reader.input
    while len(graph.consumers[tensor]) == 1:
        if tensor in makers:
            maker = makers[tensor]
            return maker if _scalable(graph, maker, reader) else None
        node = graph.producers.get(tensor)
        if node is None or node.op_type not in _HOMOGENEOUS:
            return None
        tensor = node.input[0]
    return None


def _scalable(graph: Graph, maker: WeightLayer, reader: WeightLayer) -> bool:
    channels = len(reader.weight) if reader.groups > 1 else reader.weight.shape[1]
    nodes = [node for node in graph.nodes if node.name in (maker.name, reader.name)]
    alone = all(len(graph.consumers[name]) == 1 for node in nodes for name in node.input[1:])
    return reader.op == 'Conv' and reader.groups in (1, len(maker.weight)) and len(maker.weight) == channels and alone


def _channel_ranges(graph: Graph, names: set[str], faces: np.ndarray, preprocess: Preprocess) -> dict[str, np.ndarray]:
    ranges: dict[str, np.ndarray] = {}
    activations = Activations(graph, tuple(sorted(names)))
    for start in range(0, len(faces), _BATCH):
        for name, value in activations(preprocess(faces[start:start + _BATCH])):
            ranges[name] = np.maximum(ranges.get(name, 0), _by_channel(value))
    return ranges


def _scales(ranges: np.ndarray, weight: np.ndarray, reader: WeightLayer) -> np.ndarray:
    """What each channel is divided by, float32 ``(C,)``, the largest 1."""
    ranges = np.maximum(ranges, DEAD)
    if reader.groups == 1:
        columns = np.maximum(_by_channel(weight), DEAD)
        ranges = ranges ** _BALANCE / columns ** (1 - _BALANCE)
    return (ranges / ranges.max()).clip(1 / _LARGEST).astype(np.float32)


def _by_channel(array: np.ndarray) -> np.ndarray:
    """Largest absolute value along axis 1 of an array of any rank."""
    return np.abs(array).max((0, *range(2, array.ndim)))


def _along(scale: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    return scale.reshape([-1 if i == axis else 1 for i in range(ndim)])
