"""An exported ONNX graph: which layers carry weights, which tensors flow between them, and how copies of it are changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from plugins.extras import require
from zoo.runtime.onnx import onnx_session

__all__ = ['Activations', 'Graph', 'GraphError', 'WeightLayer', 'attributes_of', 'computes_in_integers', 'insert_nodes',
           'set_nodes', 'store_constants']

_INTEGER_OPS = frozenset({'QuantizeLinear', 'DequantizeLinear', 'DynamicQuantizeLinear', 'QLinearConv', 'ConvInteger'})


class GraphError(ValueError):
    """An ONNX file is damaged, or has not the inputs and outputs that are needed."""


@dataclass(frozen=True)
class WeightLayer:
    """A convolution or fully connected layer: what integer arithmetic is worth having for.

    Attributes:
        name: of the node; op: ``Conv`` or ``Gemm``.
        input, output: tensor names.
        weight: float32, output channels first: ``(O, I/g, kH, kW)`` or ``(O, I)``.
        weight_name: its initialiser, of whose stored shape ``axis`` is the output channel.
        strides, dilations: of a convolution, ``(1, 1)`` otherwise.
        groups: of a convolution, 1 otherwise.
    """

    name: str
    op: str
    input: str
    output: str
    weight: np.ndarray
    weight_name: str
    axis: int = 0
    strides: tuple[int, ...] = (1, 1)
    dilations: tuple[int, ...] = (1, 1)
    groups: int = 1


class Graph:
    """An ONNX model with one image input.

    Attributes:
        model: the ``onnx.ModelProto``; only a :meth:`copy_model` may be changed.
        input: name of the one input; outputs: names of the outputs, one of a recogniser, several of a detector.
        initializers: weights by name.
    """

    def __init__(self, model) -> None:
        numpy_helper = require('onnx.numpy_helper', 'onnx')
        self.model = model
        self.initializers = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        inputs = [i.name for i in model.graph.input if i.name not in self.initializers]
        self.outputs = tuple(o.name for o in model.graph.output)
        if len(inputs) != 1:
            raise GraphError(f'a recogniser or detector has one input, this graph has {inputs}')
        self.input = inputs[0]

    @classmethod
    def load(cls, path: str | os.PathLike) -> Graph:
        """Read a file, which may be a stranger's: constants become initialisers, and every node gets a name of its own.

        Raises:
            FileNotFoundError: no such file.
            GraphError: not ONNX, cut off, or more than one input.
        """
        onnx = require('onnx', 'onnx')
        if not Path(path).is_file():
            raise FileNotFoundError(f'{path}: no such ONNX file')
        try:
            model = onnx.load(str(path))
            onnx.checker.check_model(model)
            store_constants(model.graph)
            model.ir_version = max(model.ir_version, 4)  # before, every initialiser had to be an input, too
            _name_nodes(model.graph)
            return cls(model)
        except Exception as error:  # protobuf, checker and onnx's loader each have their own
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise GraphError(f'{path}: not a whole ONNX model of pictures ({reason}); export it again') from None

    def copy_model(self):
        """A copy of the ``onnx.ModelProto``, to be changed."""
        return type(self.model).FromString(self.model.SerializeToString())

    def at(self, shape: Sequence[int]) -> Graph:
        """The same graph for inputs of one shape, where all shapes are known."""
        model = self.copy_model()
        taken = next(value for value in model.graph.input if value.name == self.input)
        for dimension, size in zip(taken.type.tensor_type.shape.dim, shape, strict=True):
            dimension.dim_value = size
        del model.graph.value_info[:]
        return Graph(model)

    @property
    def output(self) -> str:
        """Name of a recogniser's one output.

        Raises:
            GraphError: there are several.
        """
        if len(self.outputs) != 1:
            raise GraphError(f'a recogniser has one output, this graph has {list(self.outputs)}')
        return self.outputs[0]

    @property
    def nodes(self):
        """All nodes, each behind those that it reads."""
        return self.model.graph.node

    @cached_property
    def consumers(self) -> dict[str, list]:
        """Nodes that read a tensor, by its name."""
        found: dict[str, list] = {}
        for node in self.nodes:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def producers(self) -> dict:
        """The node that makes a tensor, by its name."""
        return {name: node for node in self.nodes for name in node.output}

    @cached_property
    def shapes(self) -> dict[str, tuple]:
        """Shapes of all tensors by name; a dimension that is not fixed is None."""
        onnx = require('onnx', 'onnx')
        graph = onnx.shape_inference.infer_shapes(self.model).graph
        shapes = {v.name: tuple(d.dim_value if d.HasField('dim_value') else None for d in v.type.tensor_type.shape.dim)
                  for v in [*graph.input, *graph.value_info, *graph.output]}
        return shapes | {name: value.shape for name, value in self.initializers.items()}

    @cached_property
    def activations(self) -> tuple[str, ...]:
        """The input and every float tensor that a node makes from it, in the order they are made."""
        alive = [self.input]
        for node in self.nodes:
            if set(node.input) & set(alive) and node.op_type not in ('Shape', 'Size'):
                alive += node.output
        return tuple(alive)

    @cached_property
    def layers(self) -> tuple[WeightLayer, ...]:
        """All layers with weights, in order."""
        return tuple(self._layer(node) for node in self.nodes
                     if node.op_type in ('Conv', 'Gemm') and node.input[1] in self.initializers)

    def _layer(self, node) -> WeightLayer:
        attributes = attributes_of(node)
        weight, axis = self.initializers[node.input[1]], 0
        if node.op_type == 'Gemm' and not attributes.get('transB'):
            weight, axis = weight.T, 1
        options = {}
        if node.op_type == 'Conv':
            ones = (1,) * (weight.ndim - 2)
            options = {'strides': tuple(attributes.get('strides', ones)), 'groups': attributes.get('group', 1),
                       'dilations': tuple(attributes.get('dilations', ones))}
        return WeightLayer(node.name, node.op_type, node.input[0], node.output[0], weight, node.input[1], axis, **options)


def store_constants(graph) -> None:
    """Constant nodes as initialisers (in place), where weights are looked for; LightCNN makes pictures grey with such ones."""
    helper = require('onnx.helper', 'onnx')
    for node in [node for node in graph.node if node.op_type == 'Constant' and node.attribute[0].name == 'value']:
        tensor = helper.get_attribute_value(node.attribute[0])
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def _name_nodes(graph) -> None:
    """Name nodes that have no name, or another's, after what they make (in place): nodes are told apart by name."""
    taken = set()
    for node in graph.node:
        if not node.name or node.name in taken:
            node.name = node.output[0]
        while node.name in taken:
            node.name += '_'
        taken.add(node.name)


def insert_nodes(model, edges: set[tuple[str, int]], make: Callable[[str, str], list]) -> None:
    """Put the nodes that ``make(tensor, stem)`` returns before the given inputs ``(node name, input index)``, in place."""
    nodes = []
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if (node.name, index) in edges:
                added = make(name, f'{node.name}_input{index}')
                nodes += added
                node.input[index] = added[-1].output[0]
        nodes.append(node)
    set_nodes(model, nodes)


def set_nodes(model, nodes: list) -> None:
    """Let a model have these nodes, in place; they may be its own."""
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def computes_in_integers(path: str | os.PathLike) -> bool:
    """Whether an ONNX file is quantised, for onnxruntime's own kernels or with Q/DQ pairs."""
    return any(node.op_type in _INTEGER_OPS for node in require('onnx', 'onnx').load(str(path)).graph.node)


def attributes_of(node) -> dict:
    """A node's attributes as plain Python values."""
    helper = require('onnx.helper', 'onnx')
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


class Activations:
    """Runs a graph and hands out every intermediate tensor; ``names`` lists them, the input first."""

    def __init__(self, graph: Graph, names: tuple[str, ...] | None = None) -> None:
        self.names = graph.activations if names is None else names
        self._input = graph.input
        helper, model = require('onnx.helper', 'onnx'), graph.copy_model()
        del model.graph.output[:]
        model.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in self.names if n != graph.input)
        self._session = onnx_session(model.SerializeToString(), exact=True)

    def __call__(self, x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Name and float32 value of every tensor for ``x``, float32 ``(N, 3, S, S)``."""
        made = iter(self._session.run(None, {self._input: x}))
        for name in self.names:
            yield name, x if name == self._input else next(made)
