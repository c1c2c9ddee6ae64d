"""FP16: a graph that computes on a CPU what an engine in 16 bits does, and the typed one that TensorRT 11 builds from."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from plugins.extras import require
from zoo.export.graph import Graph, insert_nodes, set_nodes

__all__ = ['half_graph', 'typed_half_graph']


def half_graph(graph: Graph, keep: Collection[str] = ()):
    """A float graph whose weights and every tensor are rounded to FP16; sums stay in float32, as in tensor cores.

    Args:
        keep: nodes that stay in float32.
    """
    model, kept = graph.copy_model(), set(keep)
    numpy_helper, proto = require('onnx.numpy_helper', 'onnx'), require('onnx', 'onnx').TensorProto
    for tensor in model.graph.initializer:
        if not {node.name for node in graph.consumers.get(tensor.name, [])} <= kept and tensor.data_type == proto.FLOAT:
            with np.errstate(over='ignore'):  # infinite, as on the board: the gates refuse it
                value = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))

    def rounded(name: str, stem: str) -> list:
        return [_cast(name, f'{stem}_half', proto.FLOAT16), _cast(f'{stem}_half', f'{stem}_float', proto.FLOAT)]

    insert_nodes(model, {(n.name, i) for n in graph.nodes for i, name in enumerate(n.input)
                         if name in graph.activations and n.name not in kept}, rounded)
    return model


def typed_half_graph(graph: Graph, keep: Collection[str] = ()):
    """The graph in FP16 types, float32 at its input and outputs: what a strongly typed TensorRT (11) builds FP16 from.

    Every tensor ``x`` is called ``x_half`` or ``x_float``, as the node that makes it computes; behind it stands a cast where
    another node wants it in the other type.

    Args:
        keep: nodes that stay in float32; what one hands to another is never cast.
    """
    model, activations = graph.copy_model(), set(graph.activations)
    numpy_helper, proto = require('onnx.numpy_helper', 'onnx'), require('onnx', 'onnx').TensorProto
    factors = {name for node in graph.nodes if node.op_type == 'Resize' for name in node.input[1:]}  # float32 in any type
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer
               if t.data_type == proto.FLOAT and t.name not in factors}
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name].astype(np.float16), tensor.name))

    def typed(name: str, kept: bool) -> str:
        return f'{name}_float' if kept else f'{name}_half'

    def cast_for_others(name: str, kept: bool) -> list:
        if all((reader.name in keep) == kept for reader in graph.consumers.get(name, [])):
            return []
        return [_cast(typed(name, kept), typed(name, not kept), proto.FLOAT16 if kept else proto.FLOAT)]

    nodes = [_cast(graph.input, typed(graph.input, False), proto.FLOAT16), *cast_for_others(graph.input, False)]
    for node in model.graph.node:
        kept = node.name in keep
        for index, name in enumerate(node.input):
            if name in activations:
                node.input[index] = typed(name, kept)
            elif kept and name in weights:  # a copy of its own: other nodes may share the tensor
                node.input[index] = f'{node.name}_{name}'
                model.graph.initializer.append(numpy_helper.from_array(weights[name], node.input[index]))
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in activations:
                node.output[index] = typed(name, kept)
                nodes += cast_for_others(name, kept)
    nodes += [_cast(typed(name, graph.producers[name].name in keep), name, proto.FLOAT) for name in graph.outputs]
    set_nodes(model, nodes)
    del model.graph.value_info[:]
    require('onnx', 'onnx').checker.check_model(model)
    return model


def _cast(source: str, target: str, kind: int):
    return require('onnx.helper', 'onnx').make_node('Cast', [source], [target], f'{target}_cast', to=kind)
