"""INT8 on the CPU by each runtime's own rules, and the graphs that TensorRT (8.5 and later) and onnxruntime run in 8 bits.

What a runtime rounds is a :class:`Scheme`. A node that computes in 8 bits reads rounded tensors and has rounded weights;
layers named in ``keep`` stay in floating point, with the activation behind them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from plugins.extras import require
from plugins.quantization import weight_levels
from zoo.export.calibrate import DEAD, Calibration
from zoo.export.graph import Activations, Graph, WeightLayer, insert_nodes, set_nodes

__all__ = ['SCHEMES', 'Scheme', 'group_of', 'int8_graph', 'layer_snr', 'macs_in_int8', 'ncnn_weight_levels',
           'onnxruntime_int8_graph', 'simulate_int8', 'weight_amax']

_SHAPE_OPS = frozenset({'Shape', 'Gather', 'Unsqueeze', 'Concat', 'Constant', 'Cast', 'Reshape', 'Flatten', 'Squeeze',
                        'Slice', 'Transpose', 'Identity'})


def ncnn_weight_levels(layer: WeightLayer) -> int:
    """Steps of a layer's weights in NCNN; see :func:`plugins.quantization.weight_levels`."""
    return weight_levels(layer.weight.shape[2:], layer.strides, layer.dilations, layer.groups)


@dataclass(frozen=True)
class Scheme:
    """What a runtime rounds when it computes in 8 bits.

    Attributes:
        everywhere: every tensor is rounded, not only what convolutions and fully connected layers read: given a cache,
            TensorRT may run any layer in 8 bits, and the worst case is assumed.
        weight_levels: how many steps to either side of 0 a layer's weights have.
        in_float: whether a layer stays in floating point whatever the calibration says.
        outputs: the outputs of layers are rounded, too, whatever reads them.
    """

    everywhere: bool
    weight_levels: Callable[[WeightLayer], int]
    in_float: Callable[[Graph, WeightLayer], bool] = lambda graph, layer: False
    outputs: bool = False

    def kept(self, graph: Graph, keep: Collection[str] = ()) -> set[str]:
        """Names of all layers in floating point, with those of ``keep``.

        Raises:
            KeyError: ``keep`` names what is no layer of the graph.
        """
        if unknown := set(keep) - {layer.name for layer in graph.layers}:
            raise KeyError(f'no layers {sorted(unknown)} in the graph; its layers are {[x.name for x in graph.layers]}')
        return {*keep, *(layer.name for layer in graph.layers if self.in_float(graph, layer))}


def _not_in_ncnn(graph: Graph, layer: WeightLayer) -> bool:
    """Whether a layer is a convolution of one dimension, which NCNN does not compute in 8 bits, or one with several channels a
    group, which its x86 kernels (20261020) compute wrongly in 8 bits and packed layout."""
    return layer.weight.ndim == 3 or (layer.groups > 1 and layer.weight.shape[:2] != (layer.groups, 1))


SCHEMES = {
    'tensorrt': Scheme(everywhere=True, weight_levels=lambda layer: 127),
    'qdq': Scheme(everywhere=False, weight_levels=lambda layer: 127),
    'ncnn': Scheme(everywhere=False, weight_levels=ncnn_weight_levels, in_float=_not_in_ncnn),
    'onnxruntime': Scheme(everywhere=False, weight_levels=lambda layer: 127,
                          in_float=lambda graph, layer: layer.op != 'Conv' or layer.input == graph.input, outputs=True),
}


def weight_amax(weight: np.ndarray) -> np.ndarray:
    """Largest absolute weight of each output channel, float32 ``(O,)``; a dead channel gets 1e-6 (ncnn#3022)."""
    return np.maximum(np.abs(weight).reshape(len(weight), -1).max(1), DEAD).astype(np.float32)


def simulate_int8(graph: Graph, calibration: Calibration, scheme: Scheme, keep: Collection[str] = ()):
    """A float graph that computes what the runtime computes in 8 bits (up to the order of additions).

    Run it with ``exact=True``. Deviation: -128 may occur where TensorRT's and NCNN's integers end at -127.

    Args:
        keep: names of layers that stay in floating point.

    Returns:
        ``onnx.ModelProto``.

    Raises:
        CalibrationError: a tensor has no range: the calibration is of another model.
        KeyError: ``keep`` names what is no layer.
    """
    model = graph.copy_model()
    rounded = _int8_nodes(graph, scheme, keep)
    layers = {layer.name: layer for layer in graph.layers if layer.name in rounded}
    for node in model.graph.node:
        if node.name in layers:
            layer = layers[node.name]
            levels = scheme.weight_levels(layer)
            scale = (weight_amax(layer.weight) / levels).reshape(-1, *[1] * (layer.weight.ndim - 1))
            value = np.clip(np.rint(layer.weight / scale), -levels, levels) * scale
            _replace_weight(model, node, value.T if layer.axis else value)
        elif node.name in rounded and node.op_type == 'PRelu' and node.input[1] in graph.initializers:
            slope = graph.initializers[node.input[1]]
            scale = max(float(np.abs(slope).max()), DEAD) / 127
            _replace_weight(model, node, np.rint(slope / scale) * scale)
    _round_edges(model, graph, rounded, calibration, {layer.output for layer in layers.values()} if scheme.outputs else ())
    return model


def int8_graph(graph: Graph, calibration: Calibration, keep: Collection[str] = ()):
    """The explicitly quantised graph: Q/DQ pairs before every INT8 layer, on its activation and on its weights.

    As TensorRT wants it: symmetric, zero points present, weights per output channel as float initialisers with a Q/DQ pair,
    one pair a consumer, bias in floating point (TensorRT developer guide, "Explicit quantization"; onnxruntime#14229).
    Hardware without INT8 units refuses such a graph (TensorRT#3157).

    Raises:
        CalibrationError, KeyError: as :func:`simulate_int8`.
    """
    model, scheme = graph.copy_model(), SCHEMES['qdq']
    rounded = _int8_nodes(graph, scheme, keep)
    layers = {layer.name: layer for layer in graph.layers if layer.name in rounded}
    _round_edges(model, graph, rounded, calibration)
    nodes = []
    for node in model.graph.node:
        if node.name in layers:
            layer, stem = layers[node.name], f'{node.name}_weight'
            _add_constant(model, f'{stem}_scale', weight_amax(layer.weight) / 127)
            _add_constant(model, f'{stem}_zero', np.zeros(len(layer.weight), np.int8))
            nodes += _pair(node.input[1], f'{stem}_scale', f'{stem}_zero', stem, axis=layer.axis)
            node.input[1] = nodes[-1].output[0]
        nodes.append(node)
    set_nodes(model, nodes)
    require('onnx', 'onnx').checker.check_model(model)
    return model


def onnxruntime_int8_graph(graph: Graph, calibration: Calibration, keep: Collection[str] = ()):
    """The quantised graph that onnxruntime's CPU kernels run fast: convolutions from unsigned to unsigned 8 bits.

    The values are those of :func:`int8_graph` with 128 added, and each convolution's output is rounded too, since only then
    does onnxruntime compute it in integers. In floating point stay the layer that reads the picture, which is faster there, and
    fully connected ones. A PReLU behind a convolution becomes ``max(x, a x)`` where no slope exceeds 1: unlike PRelu, that
    keeps the channels last, as the integer kernels want them.

    On x86 processors without VNNI onnxruntime adds pairs of products in 16 bits, which may saturate (its documentation,
    "Quantize ONNX models"): measure the accuracy on such a machine.

    Raises:
        CalibrationError, KeyError: as :func:`simulate_int8`.
    """
    model = graph.copy_model()
    kept = SCHEMES['onnxruntime'].kept(graph, keep)
    layers = {layer.name: layer for layer in graph.layers if layer.name not in kept}
    outputs = {layer.output for layer in layers.values()}
    _split_prelu(model, graph, outputs)
    insert_nodes(model, {(node.name, i) for node in model.graph.node for i, name in enumerate(node.input)
                         if name in outputs or (i == 0 and node.name in layers)},
                 _pair_maker(model, calibration, np.uint8(128)))
    nodes = []
    for node in model.graph.node:
        if node.name in layers:
            nodes += _integer_weights(model, graph, node, layers[node.name], _step(calibration, layers[node.name].input))
        nodes.append(node)
    set_nodes(model, nodes)
    read = {name for node in model.graph.node for name in node.input}
    constants = [t for t in model.graph.initializer if t.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)
    require('onnx', 'onnx').checker.check_model(model)
    return model


def _split_prelu(model, graph: Graph, tensors: set[str]) -> None:
    """PRelu nodes that read ``tensors``, with slopes of at most 1, as a product and a maximum."""
    helper, nodes = require('onnx.helper', 'onnx'), []
    for node in model.graph.node:
        slopes = graph.initializers.get(node.input[1]) if node.op_type == 'PRelu' and node.input[0] in tensors else None
        if slopes is None or slopes.max() > 1:
            nodes.append(node)
            continue
        scaled = f'{node.output[0]}_scaled'
        nodes += [helper.make_node('Mul', [node.input[0], node.input[1]], [scaled], f'{node.name}_product'),
                  helper.make_node('Max', [node.input[0], scaled], [node.output[0]], f'{node.name}_maximum')]
    set_nodes(model, nodes)


def _integer_weights(model, graph: Graph, node, layer: WeightLayer, step: np.float32) -> list:
    """Store a convolution's weights in 8 bits, scaled by output channel, and its bias in 32, in steps of the products (in
    place); returns the nodes that make numbers of them again."""
    scale, bias = weight_amax(layer.weight) / 127, graph.initializers[node.input[2]] if len(node.input) > 2 else None
    if bias is not None:  # a dead channel still has one, which would not fit 32 bits in the tiny steps of its weights
        scale = np.maximum(scale, np.abs(bias) / (step * np.float32(2 ** 30)))
    rounded = np.rint(layer.weight / scale.reshape(-1, *[1] * (layer.weight.ndim - 1))).clip(-127, 127).astype(np.int8)
    parts = [('weight', 1, rounded, scale)]
    if bias is not None:
        parts.append(('bias', 2, np.rint(bias / (scale * step)).astype(np.int32), scale * step))
    nodes = []
    for what, index, integers, steps in parts:
        names = [f'{node.name}_{what}{end}' for end in ('', '_scale', '_zero')]
        for name, value in zip(names, (integers, steps, np.zeros(len(steps), integers.dtype)), strict=True):
            _add_constant(model, name, value)
        node.input[index] = f'{names[0]}_dq'
        nodes.append(require('onnx.helper', 'onnx').make_node('DequantizeLinear', names, [node.input[index]], node.input[index],
                                                              axis=0))
    return nodes


def layer_snr(graph: Graph, model, x: np.ndarray) -> dict[str, float]:
    """Signal-to-noise ratio in dB of each weight layer's output in ``model`` against ``graph``, by layer name.

    Args:
        model: a simulation of ``graph``, as made here.
        x: preprocessed faces, float32 ``(N, 3, S, S)``.
    """
    names = tuple(layer.output for layer in graph.layers)
    exact, found = dict(Activations(graph, names)(x)), dict(Activations(Graph(model), names)(x))
    ratios = {}
    for layer in graph.layers:
        signal = exact[layer.output].astype(np.float64)
        noise = np.square(found[layer.output] - signal).sum()
        ratios[layer.name] = float(10 * np.log10(np.square(signal).sum() / max(noise, 1e-30)))
    return ratios


def macs_in_int8(graph: Graph, keep: Collection[str]) -> float:
    """Fraction of the multiply-accumulates that are done in 8 bits when the layers in ``keep`` are not."""
    macs = {layer.name: layer.weight.size * math.prod(s or 1 for s in graph.shapes[layer.output][2:]) for layer in graph.layers}
    return 1 - sum(macs[name] for name in keep) / sum(macs.values())


def group_of(graph: Graph, layer: WeightLayer) -> set[str]:
    """Names of a layer's node and of the element-wise nodes that only it feeds (its activation)."""
    names, tensor = {layer.name}, layer.output
    while len(users := graph.consumers.get(tensor, [])) == 1 and users[0].op_type not in ('Conv', 'Gemm', 'Add'):
        names.add(users[0].name)
        tensor = users[0].output[0]
    return names


def _int8_nodes(graph: Graph, scheme: Scheme, keep: Collection[str]) -> set[str]:
    """Names of the nodes that compute in 8 bits."""
    nodes = {layer.name for layer in graph.layers}
    if scheme.everywhere:
        nodes |= {node.name for node in graph.nodes if node.op_type not in _SHAPE_OPS}
    kept = scheme.kept(graph, keep)
    for layer in graph.layers:
        if layer.name in kept:
            nodes -= group_of(graph, layer)
    return nodes


def _round_edges(model, graph: Graph, rounded: set[str], calibration: Calibration, tensors: Collection[str] = ()) -> None:
    """Let the nodes in ``rounded`` read their activations, and all nodes the given tensors, through a Q/DQ pair."""
    activations = set(graph.activations)
    insert_nodes(model, {(node.name, i) for node in graph.nodes for i, name in enumerate(node.input)
                         if name in tensors or (node.name in rounded and name in activations)},
                 _pair_maker(model, calibration, np.int8(0)))


def _pair_maker(model, calibration: Calibration, zero_point: np.integer) -> Callable[[str, str], list]:
    """For :func:`insert_nodes`: Q/DQ pairs in the calibrated range of a tensor, 127 steps to either side of ``zero_point``."""
    made: set[str] = set()

    def pair(name: str, stem: str) -> list:
        scale, zero = f'{name}_scale', f'{name}_zero'
        if name not in made:
            _add_constant(model, scale, _step(calibration, name))
            _add_constant(model, zero, zero_point)
            made.add(name)
        return _pair(name, scale, zero, stem)

    return pair


def _step(calibration: Calibration, name: str) -> np.float32:
    return np.float32(calibration.range_of(name) / 127)


def _pair(name: str, scale: str, zero: str, stem: str, **options) -> list:
    helper = require('onnx.helper', 'onnx')
    return [helper.make_node('QuantizeLinear', [name, scale, zero], [f'{stem}_q'], f'{stem}_q', **options),
            helper.make_node('DequantizeLinear', [f'{stem}_q', scale, zero], [f'{stem}_dq'], f'{stem}_dq', **options)]


def _replace_weight(model, node, value: np.ndarray) -> None:
    """Let a node read a weight of its own: others may share the tensor."""
    name = f'{node.name}_rounded'
    _add_constant(model, name, value.astype(np.float32))
    node.input[1] = name


def _add_constant(model, name: str, value: np.ndarray) -> None:
    model.graph.initializer.append(require('onnx.numpy_helper', 'onnx').from_array(np.asarray(value), name))
