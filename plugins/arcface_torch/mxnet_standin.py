"""The part of MXNet that ``arcface_torch`` uses, on facezoo's own RecordIO and OpenCV: records and images, no network.

Files are byte-identical and decoded images pixel-identical to MXNet 1.9.1's (``benchmarks/mxnet_interop.py`` compares). One
deliberate difference: a damaged image is an error that names file and record, where MXNet fills a cut JPEG with grey.
"""

from __future__ import annotations

import numbers
import sys
from collections import namedtuple
from types import ModuleType

import numpy as np

from plugins.data.recordio import RecordHeader, RecordReader, RecordWriter
from plugins.data.recordio import pack as _pack
from plugins.data.recordio import unpack as _unpack
from plugins.preprocess import decode_image

__all__ = ['install']

IRHeader = namedtuple('IRHeader', ['flag', 'label', 'id', 'id2'])


class Record(bytes):
    """A record's bytes that remember where they come from, for the message when they turn out to be damaged."""

    origin = 'image'


class MXIndexedRecordIO:
    """Random access to a ``.rec`` (``flag='r'``), or writing one (``'w'``: visible under its name after ``close``)."""

    def __init__(self, idx_path: str, uri: str, flag: str, key_type: type = int) -> None:
        if flag not in ('r', 'w'):
            raise ValueError(f'Invalid flag {flag!r}: must be r or w')
        self.uri, self.key_type = uri, key_type
        self._writer = RecordWriter(uri, idx_path).__enter__() if flag == 'w' else None
        self._reader = RecordReader(uri, idx_path) if flag == 'r' else None
        self.keys = self._reader.keys.tolist() if self._reader else []

    def read_idx(self, idx: int) -> Record:
        record = Record(self._reader.read(int(idx)))
        record.origin = f'{self.uri}, record {idx}'
        return record

    def write_idx(self, idx: int, buf: bytes) -> None:
        self.keys.append(self.key_type(idx))
        self._writer.write(self.keys[-1], buf)

    def close(self) -> None:
        if self._writer:
            self._writer.__exit__(None, None, None)
            self._writer = None


def unpack(s: bytes) -> tuple[IRHeader, bytes]:
    """Header and image; a label vector is a float32 array, as MXNet gives it."""
    header, image = _unpack(s)
    label = np.array(header.label, np.float32) if header.flag else header.label
    image = Record(image)
    image.origin = getattr(s, 'origin', Record.origin)
    return IRHeader(header.flag, label, header.id, header.id2), image


def pack(header: IRHeader, s: bytes) -> bytes:
    """Payload of an image record; a label that is not a number is stored as a vector."""
    header = IRHeader(*header)
    scalar = isinstance(header.label, numbers.Number)
    label = header.label if scalar else tuple(np.asarray(header.label, np.float32).ravel().tolist())
    return _pack(RecordHeader(label, header.id, header.id2), s)


class NDArray(np.ndarray):
    """A NumPy array with MXNet's way out of it."""

    def asnumpy(self) -> np.ndarray:
        return np.ascontiguousarray(self).view(np.ndarray)


def imdecode(buf) -> NDArray:
    """Encoded image (bytes or uint8 array) to uint8 RGB ``(H, W, 3)``."""
    data = buf if isinstance(buf, bytes) else np.asarray(buf, np.uint8).tobytes()
    return decode_image(data, getattr(buf, 'origin', Record.origin)).view(NDArray)


def resize_short(src: NDArray, size: int, interp: int = 2) -> NDArray:
    """Scale so that the shorter side has ``size`` pixels, bicubic."""
    import cv2
    if interp != 2:
        raise NotImplementedError(f'resize_short(interp={interp}): the stand-in knows 2 (bicubic) only; install mxnet')
    height, width = src.shape[:2]
    new = (size, size * height // width) if height > width else (size * width // height, size)
    optimised = cv2.useOptimized()
    cv2.setUseOptimized(False)  # MXNet's OpenCV 3.4 computes in fixed point; the vector code rounds one value in 25 otherwise
    try:
        return cv2.resize(np.asarray(src), new, interpolation=cv2.INTER_CUBIC).view(NDArray)
    finally:
        cv2.setUseOptimized(optimised)


def transpose(data: NDArray, axes: tuple[int, ...]) -> NDArray:
    return np.transpose(data, axes)


def flip(data: NDArray, axis: int) -> NDArray:
    return np.flip(data, axis)


class Dataset:
    """``mxnet.gluon.data.Dataset``, a base class without content here."""


def install() -> None:
    """Put the stand-in into ``sys.modules`` as ``mxnet``."""
    for name in [name for name in sys.modules if name.partition('.')[0] == 'mxnet']:
        del sys.modules[name]  # what a failed import left behind
    ndarray = _module('mxnet.ndarray', NDArray=NDArray, transpose=transpose, flip=flip)
    _module('mxnet', __version__='facezoo stand-in', __path__=[], nd=ndarray, ndarray=ndarray,
            recordio=_module('mxnet.recordio', MXIndexedRecordIO=MXIndexedRecordIO, IRHeader=IRHeader, pack=pack,
                             unpack=unpack),
            image=_module('mxnet.image', imdecode=imdecode, resize_short=resize_short),
            gluon=_module('mxnet.gluon', __path__=[], data=_module('mxnet.gluon.data', Dataset=Dataset)))


def _module(name: str, **content) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    sys.modules[name] = module
    return module
