"""PReLU without onnxruntime's PRelu kernel, which takes more time than all convolutions of these networks together.

With ``r = ReLU(x)`` and slope ``a`` of a channel, ``PReLU(x) = a x + (1 - a) r``, and onnxruntime runs every part of the
right side in its fast blocked layout: ReLU, and a depthwise 1x1 convolution that adds its second operand on the way (``Conv``
with a fused sum).

* Where only convolutions read the result and no slope is 0, it is enough to hand them ``y / a = x + (1 / a - 1) r``: their
  weights take the factor ``a``. Zero padding stays zero, and no slope makes it inexact.
* Elsewhere (before a flattening, an addition, ...) two depthwise convolutions write ``a x`` and ``(1 - a) r``.

Both are identities; only the rounding of single float32 operations differs. It is done in memory when a file is opened: the
file keeps its PRelu nodes, which TensorRT and NCNN run well.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from plugins.extras import require

__all__ = ['replace_prelu']

_SMALLEST = 1e-6  # a slope nearer to 0 is treated as 0


def replace_prelu(model) -> int:
    """Rewrite every PRelu with one float32 slope a channel of a 4-d tensor, in place.

    Args:
        model: an ``onnx.ModelProto`` whose slopes and weights are initialisers.

    Returns:
        How many were rewritten; any others are left as they are.
    """
    return _Rewriter(model.graph).run()


class _Rewriter:
    def __init__(self, graph) -> None:
        self.graph = graph
        self.values = {i.name: i for i in graph.initializer}
        self.readers = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.outputs = {o.name for o in graph.output}

    def run(self) -> int:
        nodes, done = [], 0
        for node in self.graph.node:
            slopes = self._slopes(node)
            if slopes is None:
                nodes.append(node)
                continue
            done += 1
            nodes += self._scaled(node, slopes) if self._can_scale(node, slopes) else self._plain(node, slopes)
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        return done

    def _slopes(self, node) -> np.ndarray | None:
        """The slopes ``(C,)`` of a PRelu that can be rewritten."""
        if node.op_type != 'PRelu' or node.input[1] not in self.values:
            return None
        slopes = self._array(node.input[1])
        fits = slopes.ndim >= 3 and slopes.shape[-2:] == (1, 1) and slopes.size == slopes.shape[-3] > 1  # 1: all share it
        return slopes.reshape(-1) if fits and slopes.dtype == np.float32 else None

    def _can_scale(self, node, slopes: np.ndarray) -> bool:
        """Whether only convolutions read the result, and no slope is 0."""
        name = node.output[0]
        return name not in self.outputs and np.abs(slopes).min() > _SMALLEST and all(
            reader.op_type == 'Conv' and reader.input[0] == name and reader.input[1] in self.values
            and self._array(reader.input[1]).dtype == np.float32 and self._groups(reader) in (1, len(slopes))
            for reader in self.readers[name])

    def _scaled(self, node, slopes: np.ndarray) -> list:
        """Nodes for ``y / a``; the weights of those that read it take the factor."""
        for reader in self.readers[node.output[0]]:
            weight = self._array(reader.input[1])
            factor = slopes.reshape(1, -1, 1, 1) if self._groups(reader) == 1 else np.repeat(
                slopes, len(weight) // len(slopes)).reshape(-1, 1, 1, 1)
            reader.input[1] = self._add(f'{node.output[0]}/{reader.output[0]}/weight', weight * factor)
        x, y = node.input[0], node.output[0]
        return [_node('Relu', [x], f'{y}/relu'), self._depthwise(f'{y}/relu', 1 / slopes - 1, f'{y}/bent'),
                _node('Add', [f'{y}/bent', x], y)]

    def _plain(self, node, slopes: np.ndarray) -> list:
        """Nodes for ``y`` itself."""
        x, y = node.input[0], node.output[0]
        return [_node('Relu', [x], f'{y}/relu'), self._depthwise(f'{y}/relu', 1 - slopes, f'{y}/bent'),
                self._depthwise(x, slopes, f'{y}/straight'), _node('Add', [f'{y}/straight', f'{y}/bent'], y)]

    def _depthwise(self, x: str, factors: np.ndarray, y: str):
        weight = self._add(f'{y}/weight', factors.reshape(-1, 1, 1, 1))
        return _node('Conv', [x, weight], y, group=len(factors), kernel_shape=[1, 1])

    def _array(self, name: str) -> np.ndarray:
        return require('onnx.numpy_helper', 'onnx').to_array(self.values[name])

    def _add(self, name: str, array: np.ndarray) -> str:
        tensor = require('onnx.numpy_helper', 'onnx').from_array(np.ascontiguousarray(array, np.float32), name)
        self.graph.initializer.append(tensor)
        self.values[name] = tensor
        return name

    @staticmethod
    def _groups(node) -> int:
        return next((a.i for a in node.attribute if a.name == 'group'), 1)


def _node(kind: str, inputs: list[str], output: str, **attributes):
    return require('onnx.helper', 'onnx').make_node(kind, inputs, [output], name=output, **attributes)
