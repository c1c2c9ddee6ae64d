"""Faces on disk, whatever they lie in: one interface over folders, zip archives, ``.rec`` and ``.bin`` files.

An identity is a folder name (sorted, numbered from 0, as torchvision's ImageFolder does) or a record's label; -1 means
unknown, as for images that lie directly in the root.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator, Sized
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol

import cv2
import numpy as np

from plugins.data.recordio import RecordError, RecordHeader, RecordReader, unpack
from plugins.data.verification import read_bin
from plugins.preprocess import PICTURE_SUFFIXES, FaceError, decode_image

__all__ = ['FaceSource', 'MemoryFaces', 'RecordFaces', 'SubsetFaces', 'TreeFaces', 'decode_face', 'fingerprint', 'header_slack',
           'open_faces', 'read_faces', 'shrink_crop', 'spread']

_SAMPLE = 1000  # images of a fingerprint


class FaceSource(Protocol):
    """Random access to encoded face images."""

    num_classes: int

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[bytes, int]:
        """Encoded image and identity (-1: unknown)."""

    def name(self, index: int) -> str:
        """What to call the image in a message."""


class TreeFaces:
    """Images below a folder, through links to other folders, or below a folder inside a zip archive (``faces.zip/labelled``);
    hidden ones are left alone.

    Raises:
        FaceError: no image is there, or the archive is damaged.
        OSError: a folder that may not be read.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        self.root = Path(root)
        self.archive, prefix = _split_archive(self.root)
        if self.archive:
            self._open_zip()
            members = (PurePosixPath(name) for name in self._zip.namelist())
            names = [m.relative_to(prefix) for m in members if m.is_relative_to(prefix)]
        else:
            names = [PurePosixPath(path.relative_to(self.root).as_posix()) for path in _files_below(self.root)]
        self._prefix = prefix
        self.names = sorted(str(n) for n in names if n.suffix.lower() in PICTURE_SUFFIXES and not _hidden(n))
        if not self.names:
            if not self.archive and not self.root.is_dir():
                raise FaceError(f'{self.root}: no images: there is no such folder or .zip')
            raise FaceError(f'{self.root}: no images ({", ".join(sorted(PICTURE_SUFFIXES))}) below this folder')
        folders = [str(PurePosixPath(n).parent) for n in self.names]
        self.classes = sorted(set(folders) - {'.'})
        number = {name: i for i, name in enumerate(self.classes)} | {'.': -1}
        self.labels = np.array([number[f] for f in folders])
        self.num_classes = len(self.classes)

    def _open_zip(self) -> None:
        try:
            self._zip, self._pid = zipfile.ZipFile(self.archive), os.getpid()
        except zipfile.BadZipFile as error:
            raise FaceError(f'{self.archive}: {error}; copy or download it again') from None

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != '_zip'} | {'_pid': None}

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> tuple[bytes, int]:
        return self.read_file(self.names[index]), int(self.labels[index])

    def read_file(self, name: str) -> bytes:
        """Bytes of any file below the root by its relative name (``pairs.txt``, ...)."""
        if not self.archive:
            return (self.root / name).read_bytes()
        if self._pid != os.getpid():  # a zip handle's file position must not be shared with a forked loader worker
            self._open_zip()
        try:
            return self._zip.read(str(self._prefix / name))
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise FaceError(f'{self.archive}/{name}: {error}; copy or download the archive again') from None

    def sizes(self) -> np.ndarray:
        """Bytes of every image."""
        if self.archive:
            sizes = (self._zip.getinfo(str(self._prefix / name)).file_size for name in self.names)
        else:
            sizes = (os.stat(f'{self.root}/{name}').st_size for name in self.names)
        return np.fromiter(sizes, np.int64, len(self))

    def name(self, index: int) -> str:
        return f'{self.root}/{self.names[index]}'


def _hidden(name: PurePosixPath) -> bool:
    """What systems leave beside a picture, as macOS does in every archive that it packs, and Linux at the root of a disk."""
    return any(part.startswith('.') or part in ('__MACOSX', 'lost+found') for part in name.parts)


class RecordFaces:
    """Images of ``train.rec`` (+ ``.idx``), of InsightFace's layout with a header record or of im2rec's without.

    ``root`` is the folder that holds ``train.rec``, or the ``.rec`` itself.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        root = Path(root)
        self.rec = root if root.suffix == '.rec' else root / 'train.rec'
        idx = self.rec.with_suffix('.idx')
        self._reader = RecordReader(self.rec, idx if idx.exists() else None)
        keys = self._reader.keys
        first, image = unpack(self._reader.read(int(keys.min())))
        self.header = first.label if first.flag == 2 and not image else None
        self._keys = np.sort(keys)
        if self.header:
            self._end = self._find_end()
            self._keys = self._keys[(self._keys > 0) & (self._keys < self._end)]
            if len(self._keys) != self._end - 1:
                raise RecordError(f'{self.rec}: the header record announces {self._end - 1} images, but {idx} lists '
                                  f'{len(self._keys)}; one of the two files is of another data set')

    def _find_end(self) -> int:
        """First key behind the images: what the header says, or within its rounding the first record without an image."""
        announced, slack = int(self.header[0]), header_slack(self.header[0])
        near = [key for key in range(announced - slack, announced + slack + 1) if key in self._reader]
        end = next((key for key in near if not self._holds_image(key)), announced)
        for key, expected in ((end - 1, True), (end, False)):
            if key > 0 and key in self._reader and self._holds_image(key) != expected:
                raise RecordError(f'{self.rec}: the header record announces {announced - 1} images, but record {key} holds '
                                  f'{"none" if expected else "one too"}; the file was put together wrongly; pack the images '
                                  'again (`facezoo data pack`)')
        return end

    def _holds_image(self, key: int) -> bool:
        return bool(unpack(self._reader.read(key))[1])

    @property
    def knows_classes(self) -> bool:
        """Whether ``num_classes`` is to be had without reading every label."""
        return bool(self.header) or self.rec.with_name('property').exists()

    @cached_property
    def num_classes(self) -> int:
        """Number of identities; without header and ``property`` file every label has to be read."""
        if self.header and header_slack(self.header[1]):
            return int((self._reader.keys >= self._end).sum())
        if self.header:
            return int(self.header[1]) - int(self.header[0])
        prop = self.rec.with_name('property')
        if prop.exists():
            text = prop.read_text(errors='replace')
            try:
                return int(text.split(',')[0])
            except ValueError:
                raise RecordError(f'{prop}: {text[:40]!r} is not "identities,height,width"; correct the file, or delete it '
                                  'to have the labels counted') from None
        return 1 + max(self.read(index)[1] for index in range(len(self)))

    def __len__(self) -> int:
        return len(self._keys)

    def read(self, index: int) -> tuple[bytes, int]:
        header, image = unpack(self._reader.read(int(self._keys[index])))
        try:
            return image, header.identity
        except (ValueError, OverflowError):
            raise RecordError(f'{self.name(index)}: label {header.label} is no class') from None

    def sizes(self) -> np.ndarray:
        """Bytes of every image, up to its padding."""
        return self._reader.image_sizes(self._keys)

    def header_of(self, index: int) -> RecordHeader:
        """Header of an image's record: label and ids as they are stored."""
        return unpack(self._reader.read(int(self._keys[index])))[0]

    def name(self, index: int) -> str:
        return f'{self.rec}, record {self._keys[index]}'


def header_slack(announced: float) -> int:
    """By how much a count in a header record may be off: labels are float32, exact only to 2**24 (Glint360K: 17.1 M)."""
    return int(np.spacing(np.float32(announced)) // 2)


class MemoryFaces:
    """Encoded images held in memory, of unknown identity (the images of a verification ``.bin``)."""

    num_classes = 0

    def __init__(self, images: list[bytes], label: str) -> None:
        self.images, self.label = images, label

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> tuple[bytes, int]:
        return self.images[index], -1

    def sizes(self) -> np.ndarray:
        """Bytes of every image."""
        return np.array([len(image) for image in self.images])

    def name(self, index: int) -> str:
        return f'{self.label}, image {index}'


class SubsetFaces:
    """Some images of a source, in the given order."""

    def __init__(self, source: FaceSource, indices) -> None:
        self.source, self.indices, self.num_classes = source, np.asarray(indices), source.num_classes

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> tuple[bytes, int]:
        return self.source.read(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))


def open_faces(path: str | os.PathLike) -> FaceSource:
    """The faces at ``path``: a folder with ``train.rec``, a folder of images, a ``.zip`` (or a folder in it), ``.rec``,
    or ``.bin``.

    Raises:
        FileNotFoundError: nothing is there.
        FaceError, RecordError, BinError: it holds no images, or is damaged.
    """
    path = Path(path)
    if path.suffix == '.bin' and path.is_file():
        return MemoryFaces(read_bin(path)[0], str(path))
    if (path.suffix == '.rec' and path.is_file()) or (path / 'train.rec').exists():
        return RecordFaces(path)
    if path.is_dir() or _split_archive(path)[0]:
        return TreeFaces(path)
    raise FileNotFoundError(f'{path}: no folder, .zip, .rec or .bin of faces is there')


def spread(source: Sized, count: int) -> np.ndarray:
    """Indices of ``count`` images spread evenly over a source, all of a smaller one: int64, ascending."""
    return np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)


def read_faces(source: FaceSource, indices, size: int) -> np.ndarray:
    """Decoded faces as uint8 RGB ``(N, size, size, 3)``.

    Raises:
        FaceError: an image is damaged or is not an aligned crop of that size.
    """
    images = np.empty((len(indices), size, size, 3), np.uint8)
    for row, index in enumerate(indices):
        images[row] = decode_face(source, int(index), size)[0]
    return images


def decode_face(source: FaceSource, index: int, size: int) -> tuple[np.ndarray, int]:
    """One decoded face and its identity; see :func:`read_faces`."""
    data, label = source.read(index)
    return shrink_crop(decode_image(data, source.name(index)), size, source.name(index)), label


def shrink_crop(image: np.ndarray, size: int, name: str = 'face') -> np.ndarray:
    """An aligned crop uint8 ``(S, S, 3)`` as one of ``size`` pixels.

    The ArcFace template scales (:func:`zoo.jetson.align.template`), so that a 112-pixel crop made smaller is the 96-pixel
    one; crops are never enlarged, and those of another template (128) never converted.

    Raises:
        FaceError: the image is no such crop.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    if height == width > size and height % 112 == 0 and (size == 96 or size % 112 == 0):
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    raise FaceError(f'{name}: {width}x{height} pixels, the model wants aligned {size}x{size} crops; align the faces first '
                    '(`facezoo data align`)')


def fingerprint(source: TreeFaces | RecordFaces | MemoryFaces) -> str:
    """Digest of a data set: the sizes of all images, and a thousand images with their labels, evenly spread.

    The same faces have the same one in a folder, an archive or records, whose padding to 4 bytes does not count.
    """
    digest = hashlib.sha256((-(-source.sizes() // 4)).astype('<i8').tobytes())
    for index in spread(source, _SAMPLE):
        image, label = source.read(int(index))
        digest.update(image + b'%d' % label)
    return digest.hexdigest()[:16]


def _files_below(root: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error
    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        here = Path(folder)
        folders[:] = [name for name in folders if not _hidden(PurePosixPath(name)) and not (
            (here / name).is_symlink() and here.resolve().is_relative_to((here / name).resolve()))]  # a circle
        yield from (here / name for name in files)


def _split_archive(path: Path) -> tuple[Path | None, PurePosixPath]:
    """``a/faces.zip/labelled`` -> (``a/faces.zip``, ``labelled``); no archive on the way: (None, '.')."""
    for parent in (path, *path.parents):
        if parent.suffix == '.zip' and parent.is_file():
            return parent, PurePosixPath(path.relative_to(parent).as_posix())
    return None, PurePosixPath('.')
