"""Pictures from wherever they come: a path, encoded bytes or an array, always uint8 RGB and upright."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plugins.preprocess import PICTURE_SUFFIXES, FaceError, decode_image

__all__ = ['Found', 'Picture', 'find_pictures', 'read_picture']

Picture = str | os.PathLike | bytes | np.ndarray
_MOST = 178_956_970  # pixels, where Pillow refuses; decoded, half a gigabyte


def read_picture(source: Picture) -> np.ndarray:
    """A picture as uint8 RGB ``(H, W, 3)``.

    Args:
        source: path, encoded bytes (any format of OpenCV: the EXIF orientation is honoured but in AVIF, 16 bits become 8,
            grey and CMYK become RGB, transparency is dropped, of an animation the first frame is taken), or an array, uint8
            RGB ``(H, W, 3)`` or grey ``(H, W)``.

    Raises:
        FaceError: missing, a folder, empty, damaged, truncated, too large, or an array of another kind; the message names
            the picture.
    """
    if isinstance(source, np.ndarray):
        return _check_array(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(bytes(source), 'picture')
    path = Path(source)
    try:
        data = path.read_bytes()
    except OSError as error:
        if os.path.isdir(path):  # Windows calls it a permission that is lacking
            raise FaceError(f'{path}: is a folder; name the pictures in it') from None
        raise FaceError(f'{path}: cannot be read ({error.strerror})') from None
    return _decode(data, str(path))


def _check_array(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8 and array.size:
        if array.ndim == 2 or array.shape[2:] == (1,):
            return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
        if array.ndim == 3 and array.shape[2] == 3:
            return np.ascontiguousarray(array)
    raise FaceError(f'array {array.dtype} {array.shape}: a picture is uint8 RGB (H, W, 3) or grey (H, W)')


def _decode(data: bytes, name: str) -> np.ndarray:
    _check_size(data, name)
    return decode_image(data, name, upright=True)


def _check_size(data: bytes, name: str) -> None:
    """Refuse a picture by its header, before memory is taken for it."""
    import io
    import warnings

    from PIL import Image
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            Image.open(io.BytesIO(data))
    except Image.DecompressionBombError:
        raise FaceError(f'{name}: more than {_MOST} pixels; scale it down first') from None
    except Exception:  # not a format of Pillow's, or damaged: OpenCV has the say
        pass


@dataclass(frozen=True)
class Found:
    """What lies where pictures were looked for.

    Attributes:
        pictures: path of each picture, and that path below the folder it was found in; its name, when it was named itself.
        passed: what was passed over, by reason.
    """

    pictures: dict[Path, Path]
    passed: dict[str, list[Path]]


def find_pictures(paths: Iterable[str | os.PathLike]) -> Found:
    """The files named, and all pictures below the folders named, in sorted order, each path once. Linked folders are followed,
    hidden files and folders left alone.

    Raises:
        FaceError: a folder without pictures.
    """
    pictures, passed = {}, defaultdict(list)
    for path in map(Path, paths):
        if not os.path.isdir(path):  # also what may not be looked at: whoever reads it says so
            pictures[path] = Path(path.name)
            continue
        before = len(pictures)
        for file, reason in _walk(path):
            if reason:
                passed[reason].append(file)
            else:
                pictures[file] = file.relative_to(path)
        if len(pictures) == before:
            raise FaceError(f'{path}: no pictures ({", ".join(sorted(PICTURE_SUFFIXES))}) below this folder')
    return Found(pictures, dict(passed))


def _walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[tuple[Path, str | None]]:
    """All that lies below a folder, sorted, and why it is passed over, or None."""
    here = folder.resolve()
    if here in above:
        yield folder, 'links to a folder that it lies in'
        return
    try:
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith('.'))
    except PermissionError:
        if not above:  # it was asked for itself
            raise
        yield folder, 'folders that may not be read'
        return
    if not inside:
        yield folder, 'empty folders'
    for path in inside:
        if path.is_dir():
            yield from _walk(path, (*above, here))
        elif path.suffix.lower() in ('.heic', '.heif'):
            yield path, 'HEIC, to be converted to JPEG first'
        elif path.suffix.lower() not in PICTURE_SUFFIXES:
            yield path, 'no pictures of a kind that is read'
        else:
            yield path, None if path.is_file() else 'links to nothing'
