"""MXNet RecordIO without MXNet: ``train.rec`` / ``train.idx``, byte-identical to MXNet 1.9.1.

Format (dmlc-core ``recordio.h``, little endian). A record is one or more parts; a part is ``u32 magic``,
``u32 (cflag << 29 | length)``, payload, zero padding to 4 bytes. cflag 0 is a whole record; when the payload holds the magic
word at a 4-byte-aligned offset it is cut there into parts 1 (first), 2 (middle), 3 (last) and the magic is left out.
An image record's payload is ``struct 'IfQQ'`` (flag, label, id, id2), ``flag`` float32 labels, then the encoded image.
The index is text: ``key TAB byte-offset`` a line.
"""

from __future__ import annotations

import mmap
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plugins.files import atomic_path, write_atomic

__all__ = ['RecordError', 'RecordHeader', 'RecordReader', 'RecordWriter', 'pack', 'rebuild_index', 'unpack']

MAGIC = 0xCED7230A
_MAGIC = struct.pack('<I', MAGIC)
_PART = struct.Struct('<II')
_HEADER = struct.Struct('<IfQQ')
_MAX_LENGTH = 1 << 29


class RecordError(ValueError):
    """A ``.rec``/``.idx`` pair is damaged or contradicts itself."""


@dataclass(frozen=True)
class RecordHeader:
    """``label`` is a float, or a tuple of floats when the record carries a label vector (``flag`` of them)."""

    label: float | tuple[float, ...]
    id: int = 0
    id2: int = 0

    @property
    def flag(self) -> int:
        return len(self.label) if isinstance(self.label, tuple) else 0

    @property
    def identity(self) -> int:
        """Class of the face: the label, or element 0 of a label vector."""
        return int(self.label[0] if isinstance(self.label, tuple) else self.label)


def pack(header: RecordHeader, image: bytes) -> bytes:
    """Payload of an image record."""
    if header.flag:
        vector = np.asarray(header.label, '<f4').tobytes()
        return _HEADER.pack(header.flag, 0.0, header.id, header.id2) + vector + image
    return _HEADER.pack(0, header.label, header.id, header.id2) + image


def unpack(payload: bytes) -> tuple[RecordHeader, bytes]:
    """Header and encoded image of an image record.

    Raises:
        RecordError: the payload is shorter than its own header says.
    """
    if len(payload) < _HEADER.size:
        raise RecordError(f'image record of {len(payload)} bytes is shorter than its {_HEADER.size}-byte header')
    flag, label, id_, id2 = _HEADER.unpack_from(payload)
    end = _HEADER.size + 4 * flag
    if len(payload) < end:
        raise RecordError(f'image record announces {flag} labels but has only {len(payload)} bytes')
    if flag:
        label = tuple(np.frombuffer(payload, '<f4', flag, _HEADER.size).tolist())
    return RecordHeader(label, id_, id2), payload[end:]


class RecordReader:
    """Random access to a ``.rec`` through its ``.idx``; memory-mapped, safe to fork and to pickle.

    Without ``idx`` the file is scanned once and records are numbered from 0.

    Raises:
        FileNotFoundError: a file is missing.
        RecordError: the index is malformed or points past the end of the ``.rec``.
    """

    def __init__(self, rec: str | os.PathLike, idx: str | os.PathLike | None = None) -> None:
        self.rec = Path(rec)
        self.idx = Path(idx) if idx is not None else None
        self._open()
        self.keys, self._offsets = self._read_index() if self.idx else self._scan()
        # arrays, not a dictionary: Glint360K's 17 million entries would take 2 GB in every process
        self._order = None if (np.diff(self.keys) > 0).all() else np.argsort(self.keys, kind='stable')

    def _open(self) -> None:
        with open(self.rec, 'rb') as file:
            if not os.fstat(file.fileno()).st_size:
                raise RecordError(f'{self.rec}: empty file')
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != '_data'}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: int) -> bool:
        return self._row(key) is not None

    def _row(self, key: int) -> int | None:
        """Line of the index that holds ``key``, the last one if there are several (as in MXNet)."""
        row = int(self._rows(key))
        return row if self.keys[row] == key else None

    def _rows(self, keys: int | np.ndarray) -> np.ndarray:
        rows = np.searchsorted(self.keys, keys, 'right', sorter=self._order) - 1
        return rows if self._order is None else self._order[rows]

    def _read_index(self) -> tuple[np.ndarray, np.ndarray]:
        text = self.idx.read_text()
        keys, offsets = self._parse_index(text)
        bad = np.flatnonzero((offsets < 0) | (offsets + _PART.size > len(self._data)))
        if bad.size:
            raise RecordError(f'{self.idx}, line {bad[0] + 1}: offset {offsets[bad[0]]} of key {keys[bad[0]]} is past the '
                              f'end of {self.rec} ({len(self._data)} bytes): the .rec is cut short, or of another data set; '
                              'copy both again')
        return keys, offsets

    def _parse_index(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('error')  # NumPy stops at the first thing that is not a number, with just a warning
                table = np.fromstring(text, np.int64, sep=' ').reshape(-1, 2)
            if (table == np.iinfo(np.int64).max).any():
                raise ValueError  # what an integer too large is read as
        except (ValueError, DeprecationWarning):
            bad = ((n, s) for n, s in enumerate(text.splitlines(), 1) if not _is_index_line(s))
            number, line = next(bad, (1, text[:80]))
            raise RecordError(f'{self.idx}, line {number}: {line!r} is not "key TAB offset"; rebuild the index with '
                              f'`facezoo data index {self.rec}`') from None
        if not len(table):
            raise RecordError(f'{self.idx}: empty index; rebuild it with `facezoo data index {self.rec}`')
        return table[:, 0].copy(), table[:, 1].copy()

    def _scan(self) -> tuple[np.ndarray, np.ndarray]:
        offsets = [offset for offset, _ in self._walk()]
        return np.arange(len(offsets)), np.array(offsets, np.int64)

    def _walk(self) -> Iterator[tuple[int, bytes]]:
        offset = 0
        while offset < len(self._data):
            payload, end = self._read_at(offset)
            yield offset, payload
            offset = end

    def _read_at(self, offset: int) -> tuple[bytes, int]:
        """Payload of the record at ``offset`` and the offset behind it."""
        parts = []
        while True:
            if offset + _PART.size > len(self._data):
                raise RecordError(f'{self.rec}: record at byte {offset} is cut off by the end of the file; copy it again')
            magic, word = _PART.unpack_from(self._data, offset)
            if magic != MAGIC:
                doubt = f'does {self.idx} belong to this file?' if self.idx else 'it is damaged, or no .rec: copy it again'
                raise RecordError(f'{self.rec}: no record begins at byte {offset} (magic {magic:#010x}); {doubt}')
            flag, length = word >> 29, word & (_MAX_LENGTH - 1)
            start = offset + _PART.size
            offset = start + (length + 3 & ~3)
            if start + length > len(self._data):
                raise RecordError(f'{self.rec}: record of {length} bytes at byte {start - _PART.size} is cut off by the end '
                                  f'of the file ({len(self._data)} bytes); copy the file again')
            if (flag in (0, 1)) != (not parts):
                raise RecordError(f'{self.rec}: part {flag} out of order at byte {start - _PART.size}; copy the file again')
            if flag == 0:
                return self._data[start:start + length], offset
            parts.append(self._data[start:start + length])
            if flag == 3:
                return _MAGIC.join(parts), offset

    def read(self, key: int) -> bytes:
        """Payload of record ``key``.

        Raises:
            KeyError: no such key.
            RecordError: the record is damaged.
        """
        row = self._row(key)
        if row is None:
            raise KeyError(f'{self.idx or self.rec}: no record {key} (keys {self.keys.min()} to {self.keys.max()})')
        return self._read_at(int(self._offsets[row]))[0]

    def image_sizes(self, keys: np.ndarray) -> np.ndarray:
        """Bytes of the images of records, from the index alone: with their padding, and any label vector or second part."""
        begins, own = np.sort(self._offsets), self._offsets[self._rows(keys)]
        ends = np.append(begins, len(self._data))[np.searchsorted(begins, own, 'right')]
        return ends - own - _PART.size - _HEADER.size


def rebuild_index(rec: str | os.PathLike) -> int:
    """Write the ``.idx`` of a ``.rec`` anew by walking it; keys are the records' own ids.

    A header record (InsightFace's layout) gets key 0; records whose ids are all 0 are numbered from 0.

    Returns:
        Number of records.

    Raises:
        RecordError: the ``.rec`` is damaged; the old index stays.
    """
    rec = Path(rec)
    reader = RecordReader(rec)
    entries = [(unpack(payload)[0].id, offset) for offset, payload in reader._walk()]
    if len({key for key, _ in entries}) < len(entries):
        entries = [(number, offset) for number, (_, offset) in enumerate(entries)]
    write_atomic(rec.with_suffix('.idx'), ''.join(f'{key}\t{offset}\n' for key, offset in entries))
    return len(entries)


def _is_index_line(line: str) -> bool:
    try:
        return len(line.split()) == 2 and all(abs(int(word)) < 2 ** 63 for word in line.split())
    except ValueError:
        return False


class RecordWriter:
    """Write a ``.rec`` and its ``.idx``; both appear under their names only when the context ends without an error.

    Example:
        >>> with RecordWriter('train.rec') as writer:
        ...     writer.write(0, pack(RecordHeader(3.0), jpeg))
    """

    def __init__(self, rec: str | os.PathLike, idx: str | os.PathLike | None = None) -> None:
        self._paths = Path(rec), Path(idx) if idx is not None else Path(rec).with_suffix('.idx')
        self._stack = ExitStack()

    def __enter__(self) -> RecordWriter:
        # unwinds in reverse: both files are closed, so a full disk is noticed, before either gets its name
        rec, idx = [self._stack.enter_context(atomic_path(path)) for path in self._paths]
        self._data = self._stack.enter_context(open(rec, 'wb'))
        self._index = self._stack.enter_context(open(idx, 'w', newline='\n'))
        return self

    def __exit__(self, *error) -> None:
        self._stack.__exit__(*error)

    def write(self, key: int, payload: bytes) -> None:
        """Append one record.

        Raises:
            RecordError: the payload is 512 MiB or more, which the format cannot say.
        """
        if len(payload) >= _MAX_LENGTH:
            raise RecordError(f'record {key} has {len(payload)} bytes; the format allows at most {_MAX_LENGTH - 1}')
        self._index.write(f'{key}\t{self._data.tell()}\n')
        self._data.write(b''.join(_encode(payload)))


def _encode(payload: bytes) -> Iterator[bytes]:
    """The parts of one record as they are stored."""
    begin = 0
    search = payload.find(_MAGIC)
    while 0 <= search < len(payload) & ~3:
        if search % 4 == 0:
            yield _PART.pack(MAGIC, (2 if begin else 1) << 29 | (search - begin)) + payload[begin:search]
            begin = search + 4
            search = payload.find(_MAGIC, begin)
        else:
            search = payload.find(_MAGIC, search + 1)
    yield _PART.pack(MAGIC, (3 if begin else 0) << 29 | (len(payload) - begin)) + payload[begin:]
    yield b'\0' * (-(len(payload) - begin) % 4)
