"""NCNN's ``.param`` and ``.bin`` as Python objects: read, change, write; no C++ tool chain.

``.param``: the magic number 7767517, the counts of layers and blobs, then a line a layer: type, name, numbers of inputs and
outputs, their names, ``key=value`` pairs (an array has key ``-23300 - key``). ``.bin``: the weights in the order of the
layers; a tagged array begins with four bytes that say how it is stored, all others are plain float32
(ncnn: ``src/modelbin.cpp``, ``tools/modelwriter.h``).
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from plugins.files import atomic_path

__all__ = ['NcnnFormatError', 'NcnnLayer', 'NcnnModel']

MAGIC = '7767517'
FLOAT32, FLOAT16, INT8 = 0x00000000, 0x01306B47, 0x000D4B38
_DTYPES = {FLOAT32: '<f4', FLOAT16: '<f2', INT8: 'i1'}
_TAGS = {np.dtype(dtype): tag for tag, dtype in _DTYPES.items()}
_TAGGED = frozenset({'weight', 'left', 'added'})  # arrays that begin with a tag; all others are plain float32


class NcnnFormatError(ValueError):
    """A ``.param`` or ``.bin`` is damaged, has a layer whose weights cannot be told apart, or one that NCNN does not have; or
    a graph cannot be converted at all."""


@dataclass
class NcnnLayer:
    """One line of the ``.param`` and its arrays in the ``.bin``.

    Attributes:
        kind, name, inputs, outputs: as in the file.
        params: values by number, as text.
        arrays: name to array, in the file's order; ``weight`` and the other operands of a matrix product
            (``left``, ``added``) are tagged (float32, float16 or int8), all others float32.
    """

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    params: dict[int, str]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def number(self, key: int, default: int = 0) -> int:
        """An integer parameter."""
        return int(self.params.get(key, default))

    @property
    def channels(self) -> int:
        """Output channels of a convolution or fully connected layer."""
        return self.number(0)

    @property
    def rows(self) -> int:
        """How many scales the weights have in 8 bits: one a group of a depthwise convolution, else one an output channel."""
        return self.number(7, 1) if self.kind == 'ConvolutionDepthWise' else self.channels

    @property
    def line(self) -> str:
        words = [f'{self.kind:<24} {self.name:<24} {len(self.inputs)} {len(self.outputs)}', *self.inputs, *self.outputs]
        return ' '.join(words + [f'{key}={value}' for key, value in self.params.items()])


# arrays of a layer in the .bin: name, length
_Arrays = list[tuple[str, int]]


def _convolution(layer: NcnnLayer) -> _Arrays:
    return _weighted(layer, layer.number(6), layer.number(5))


def _inner_product(layer: NcnnLayer) -> _Arrays:
    return _weighted(layer, layer.number(2), layer.number(1))


def _weighted(layer: NcnnLayer, size: int, bias: int) -> _Arrays:
    term = layer.number(8)
    arrays = [('weight', size)] + [('bias', layer.channels)] * bool(bias)
    if term:
        arrays += [('weight_scales', 1 if layer.kind == 'ConvolutionDepthWise' and term % 100 == 2 else layer.rows),
                   ('input_scale', 1)]
    return arrays + [('output_scale', 1)] * (term > 100)


def _memory(layer: NcnnLayer) -> _Arrays:
    return [('data', math.prod(layer.number(key) or 1 for key in (0, 1, 11, 2)))]


def _gemm(layer: NcnnLayer) -> _Arrays:
    rows, columns, depth = (layer.number(key) for key in (7, 8, 9))
    added = {0: 1, 1: rows, 2: rows, 3: rows * columns, 4: columns}.get(layer.number(10))
    return ([('left', rows * depth)] * layer.number(4) + [('weight', depth * columns)] * layer.number(5)
            + [('added', added)] * (layer.number(6) if added else 0))


def _norm(channels: int, affine: int) -> Callable[[NcnnLayer], _Arrays]:
    return lambda layer: [(name, layer.number(channels)) for name in ('gamma', 'beta')] * bool(layer.number(affine, 1))


_ARRAYS: dict[str, Callable[[NcnnLayer], _Arrays]] = {
    'Convolution': _convolution,
    'ConvolutionDepthWise': _convolution,
    'Convolution1D': _convolution,
    'ConvolutionDepthWise1D': _convolution,
    'Deconvolution': _convolution,
    'DeconvolutionDepthWise': _convolution,
    'InnerProduct': _inner_product,
    'Gemm': _gemm,
    'PReLU': lambda layer: [('slope', layer.number(0))],
    'BatchNorm': lambda layer: [(name, layer.number(0)) for name in ('slope', 'mean', 'variance', 'bias')],
    'Scale': lambda layer: [('scale', layer.number(0))] + [('bias', layer.number(0))] * bool(layer.number(1)),
    'Bias': lambda layer: [('bias', layer.number(0))],
    'MemoryData': _memory,
    'LayerNorm': _norm(channels=0, affine=2),
    'GroupNorm': _norm(channels=1, affine=3),
    'InstanceNorm': _norm(channels=0, affine=2),
}


class NcnnModel:
    """Layers of a network, with their weights; blobs are named."""

    def __init__(self, layers: list[NcnnLayer]) -> None:
        self.layers = layers

    @classmethod
    def load(cls, param: str | os.PathLike) -> NcnnModel:
        """Read ``name.param`` and ``name.bin``.

        Raises:
            FileNotFoundError: one of the two is missing.
            NcnnFormatError: not NCNN's format, cut off, or longer than its layers explain.
        """
        param = Path(param)
        weights = param.with_suffix('.bin')
        for path in (param, weights):
            if not path.is_file():
                raise FileNotFoundError(f'{path}: no such file; an NCNN model is a .param and a .bin')
        layers = _parse(param)
        raw, position = weights.read_bytes(), 0
        for layer in layers:
            for name, size in _ARRAYS[layer.kind](layer) if layer.kind in _ARRAYS else ():
                layer.arrays[name], position = _read(raw, position, size, name in _TAGGED, f'{weights}: {layer.name}.{name}')
        if position != len(raw):
            unknown = sorted({layer.kind for layer in layers} - set(_ARRAYS))
            raise NcnnFormatError(f'{weights}: {len(raw) - position} bytes are left over after all known weights; the .bin '
                                  f'belongs to another .param, or one of the layers {unknown} has weights that facezoo '
                              'cannot read')
        return cls(layers)

    def save(self, param: str | os.PathLike) -> None:
        """Write ``name.param`` and ``name.bin``, each atomically."""
        param = Path(param)
        blobs = {name for layer in self.layers for name in layer.outputs}
        lines = [MAGIC, f'{len(self.layers)} {len(blobs)}', *(layer.line for layer in self.layers)]
        with atomic_path(param.with_suffix('.bin')) as temporary, open(temporary, 'wb') as file:
            for layer in self.layers:
                for name, array in layer.arrays.items():
                    file.write(_encode(array, tagged=name in _TAGGED))
        with atomic_path(param) as temporary:
            temporary.write_text('\n'.join(lines) + '\n')

    def consumers(self, blob: str) -> list[NcnnLayer]:
        """Layers that read a blob."""
        return [layer for layer in self.layers if blob in layer.inputs]

    @property
    def weight_layers(self) -> list[NcnnLayer]:
        """Layers that NCNN can run in 8 bits (Convolution, ConvolutionDepthWise, InnerProduct), in order."""
        return [layer for layer in self.layers if layer.kind in ('Convolution', 'ConvolutionDepthWise', 'InnerProduct')]

    def to_half(self) -> NcnnModel:
        """Store the float32 ``weight`` of every layer as float16 (in place).

        Raises:
            NcnnFormatError: a weight does not fit float16.
        """
        for layer in self.layers:
            weight = layer.arrays.get('weight')
            if weight is not None and weight.dtype == np.float32:
                if np.abs(weight).max(initial=0) > np.finfo(np.float16).max:
                    raise NcnnFormatError(f'{layer.name}: a weight of {np.abs(weight).max():g} does not fit FP16; use fp32')
                layer.arrays['weight'] = weight.astype('<f2')
        return self


def _parse(param: Path) -> list[NcnnLayer]:
    lines = param.read_text(errors='replace').splitlines()
    if not lines or lines[0].strip() != MAGIC:
        raise NcnnFormatError(f'{param}: begins with {lines[0][:20] if lines else "nothing"!r} instead of {MAGIC}; '
                              'not an NCNN .param in text form')
    layers = []
    try:
        count = int(lines[1].split()[0])
        for line in filter(str.strip, lines[2:]):
            kind, name, inputs, outputs, *words = line.split()
            inputs, outputs = int(inputs), int(outputs)
            params = dict(word.split('=', 1) for word in words[inputs + outputs:])
            layers.append(NcnnLayer(kind, name, words[:inputs], words[inputs:inputs + outputs],
                                    {int(key): value for key, value in params.items()}))
    except (ValueError, IndexError):
        raise NcnnFormatError(f'{param}: line {len(layers) + 3} is not a layer of NCNN; the file is damaged') from None
    if len(layers) != count:
        raise NcnnFormatError(f'{param}: {count} layers announced, {len(layers)} found; the file is cut off')
    return layers


def _read(raw: bytes, position: int, size: int, tagged: bool, where: str) -> tuple[np.ndarray, int]:
    tag = FLOAT32
    if tagged and position + 4 <= len(raw):
        tag = struct.unpack_from('<I', raw, position)[0]
        position += 4
    if tag not in _DTYPES:
        raise NcnnFormatError(f'{where}: storage tag {tag:#010x} is none of float32, float16, int8; the .bin does not belong '
                              'to the .param, or a layer before it has weights that facezoo cannot read')
    dtype = np.dtype(_DTYPES[tag])
    if position + size * dtype.itemsize > len(raw):
        raise NcnnFormatError(f'{where}: the file ends in the middle of it; it is cut off, or belongs to another .param')
    array = np.frombuffer(raw, dtype, size, position).copy()
    return array, position + -(-size * dtype.itemsize // 4) * 4


def _encode(array: np.ndarray, tagged: bool) -> bytes:
    array = np.ascontiguousarray(array)
    if array.dtype == np.float32:
        array = np.where(np.abs(array) < np.finfo(np.float32).tiny, np.float32(0), array)  # denormals slow ARM CPUs down
    data = array.astype(array.dtype.newbyteorder('<'), copy=False).tobytes()
    tag = struct.pack('<I', _TAGS[array.dtype]) if tagged else b''
    return tag + data + bytes(-len(data) % 4)
