"""MXNet's ``NAME-0000.params`` and ``NAME-symbol.json``, read without MXNet.

The parameters are ordered by the graph, and what the graph does around them is worked into them exactly, so that they are a
state dict of the same network in PyTorch, with RGB in [-1, 1] as its input.
"""

from __future__ import annotations

import json
import math
import os
import struct
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ['MXNetError', 'read_mxnet', 'read_params']

_LIST, _ARRAY_V2 = 0x112, 0xF993FAC9
_DTYPES = {0: '<f4', 1: '<f8', 2: '<f2'}
_EPS = 1e-5  # of PyTorch's BatchNorm; the difference to MXNet's goes into the variance
# what the inputs of an operator are called in PyTorch
_TENSORS = {'Convolution': ('weight', 'bias'), 'FullyConnected': ('weight', 'bias'), 'LeakyReLU': ('weight',),
            'BatchNorm': ('weight', 'bias', 'running_mean', 'running_var')}
_MINUS, _TIMES = ('_minus_scalar', '_sub_scalar', '_MinusScalar'), ('_mul_scalar', '_MulScalar')


class MXNetError(ValueError):
    """A file is damaged, or does something that cannot be converted exactly."""


def read_params(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Arrays by name (``arg:conv_weight``, ``aux:bn_moving_mean``) of an NDArray list file.

    Raises:
        MXNetError: not such a file, cut short, or with sparse or integer arrays.
    """
    reader = _Reader(path)
    if reader.take('Q') != _LIST:
        raise MXNetError(f'{path}: not an MXNet parameter file')
    reader.take('Q')
    arrays = [reader.array() for _ in range(reader.take('Q'))]
    names = [reader.text() for _ in range(reader.take('Q'))]
    if len(names) != len(arrays) or reader.offset != len(reader.data):
        raise MXNetError(f'{path}: {len(arrays)} arrays, {len(names)} names, {len(reader.data) - reader.offset} bytes too many'
                         '; copy it again')
    return dict(zip(names, arrays, strict=True))


def read_mxnet(path: str | os.PathLike) -> dict[str, Tensor]:
    """State dict of ``NAME-0000.params`` in the order of the graph ``NAME-symbol.json`` beside it.

    Raises:
        FileNotFoundError: the graph is missing.
        MXNetError: damaged, or a graph whose preprocessing or layers cannot be converted exactly.
    """
    path = Path(path)
    symbol = path.with_name(f'{path.stem.rpartition("-")[0] or path.stem}-symbol.json')
    if not symbol.is_file():
        raise FileNotFoundError(f'{symbol}: the graph that belongs to {path.name} is missing; it gives the order of the layers')
    arrays = {name.partition(':')[2]: value for name, value in read_params(path).items()}
    try:
        nodes = json.loads(symbol.read_text())['nodes']
        state = _ordered(nodes, arrays)
        first = next(key for key, value in state.items() if value.ndim == 4)
        state[first] = state[first] * _input_scale(nodes)
    except (KeyError, ValueError, StopIteration) as error:
        raise MXNetError(f'{symbol}: {error}') from None
    return state


def _ordered(nodes: list[dict], arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for node in nodes:
        attributes = _attributes(node)
        given = [nodes[source[0]]['name'] for source in node['inputs'][1:]]
        found = [arrays[name] for name in given if name in arrays]
        if not found:
            continue
        if len(found) < len(given):
            raise MXNetError(f'node {node["name"]}: the file has only {len(found)} of its parameters {", ".join(given)}')
        if node['op'] not in _TENSORS:
            raise MXNetError(f'node {node["name"]}: the operator {node["op"]} has parameters, but no conversion')
        tensors = {leaf: torch.from_numpy(array.astype(np.float32))
                   for leaf, array in zip(_TENSORS[node['op']], found, strict=False)}
        if node['op'] == 'BatchNorm':
            if attributes.get('fix_gamma', 'True') == 'True':
                tensors['weight'] = torch.ones_like(tensors['weight'])
            tensors['running_var'] = tensors['running_var'] + (float(attributes.get('eps', 1e-3)) - _EPS)
        state |= {f'{node["name"]}.{leaf}': tensor for leaf, tensor in tensors.items()}
    return state


def _attributes(node: dict) -> dict:
    """Of an operator; the versions of MXNet have three names for them."""
    return node.get('attrs', node.get('attr', node.get('param', {})))


def _input_scale(nodes: list[dict]) -> float:
    """What turns facezoo's input ``(x - 127.5) / 127.5`` into the graph's own ``(x - 127.5) * scale``."""
    before = takewhile(lambda node: node['op'] not in _TENSORS, nodes)  # behind its first layer a scalar is the network's own
    scalars = {node['op']: float(_attributes(node)['scalar']) for node in before if node['op'] in (*_MINUS, *_TIMES)}
    mean = next((scalars[op] for op in _MINUS if op in scalars), 0.0)
    scale = next((scalars[op] for op in _TIMES if op in scalars), 1.0)
    if mean != 127.5:
        raise MXNetError(f'the graph subtracts {mean:g} from the pixels; only 127.5 can be worked into the weights exactly')
    return scale * 127.5


class _Reader:
    """Little-endian fields of a file, with bounds."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path, self.data, self.offset = path, Path(path).read_bytes(), 0

    def _bytes(self, count: int) -> bytes:
        if count < 0 or self.offset + count > len(self.data):
            raise MXNetError(f'{self.path}: ends at byte {len(self.data)} inside a field of {count} bytes; copy it again')
        self.offset += count
        return self.data[self.offset - count:self.offset]

    def take(self, code: str) -> int:
        return struct.unpack('<' + code, self._bytes(struct.calcsize('<' + code)))[0]

    def text(self) -> str:
        return self._bytes(self.take('Q')).decode()

    def array(self) -> np.ndarray:
        if (magic := self.take('I')) != _ARRAY_V2:
            raise MXNetError(f'{self.path}: array of kind {magic:#x}; save the model again with MXNet 1.x')
        if self.take('i'):
            raise MXNetError(f'{self.path}: sparse arrays are not read')
        shape = [self.take('q') for _ in range(self.take('I'))]
        self.take('i'), self.take('i')  # device
        if (kind := self.take('i')) not in _DTYPES:
            raise MXNetError(f'{self.path}: arrays of type {kind} are not read, only floating-point ones')
        dtype = np.dtype(_DTYPES[kind])
        return np.frombuffer(self._bytes(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)
