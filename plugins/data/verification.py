"""Verification sets: InsightFace's ``.bin`` (a pickle) read safely, and written; LFW's ``pairs.txt``."""

from __future__ import annotations

import io
import os
import pickle
import re
from pathlib import Path

import numpy as np

from plugins.files import write_atomic
from plugins.preprocess import FaceError

__all__ = ['FOLDS', 'BinError', 'read_bin', 'read_pairs', 'write_bin']

FOLDS = 10  # of InsightFace's verification: parts of a set, one behind the other
_CORE = np.empty(0).__reduce__()[0].__module__.rpartition('.')[0]  # what this NumPy calls numpy.core; since 2, numpy._core

# all that a list of byte strings, arrays and booleans needs; anything else is refused before it runs
_ALLOWED = {
    ('numpy', 'ndarray'), ('numpy', 'dtype'),
    ('numpy.core.multiarray', '_reconstruct'), ('numpy._core.multiarray', '_reconstruct'),
    ('numpy.core.multiarray', 'scalar'), ('numpy._core.multiarray', 'scalar'),
    ('numpy.core.numeric', '_frombuffer'), ('numpy._core.numeric', '_frombuffer'),
    ('_codecs', 'encode'),
}


class BinError(ValueError):
    """A verification ``.bin`` is damaged or not what it claims to be."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in _ALLOWED:
            raise BinError(f'it wants to load {module}.{name}, which a verification set never needs: '
                           'the file is not trustworthy')
        return super().find_class(re.sub(r'^numpy\._?core', _CORE, module), name)


def read_bin(path: str | os.PathLike) -> tuple[list[bytes], np.ndarray]:
    """Read an InsightFace verification set without running anything that it contains.

    Returns:
        ``2 P`` encoded images (pair ``k`` is images ``2k`` and ``2k + 1``) and ``P`` booleans (same person).

    Raises:
        BinError: damaged, unsafe, or not of this form.
    """
    data = Path(path).read_bytes()
    for encoding in ('ASCII', 'bytes'):  # old sets were pickled by Python 2
        try:
            images, same = _Unpickler(io.BytesIO(data), encoding=encoding).load()
            break
        except UnicodeDecodeError:
            continue
        except BinError as error:
            raise BinError(f'{path}: {error}') from None
        except Exception as error:
            raise BinError(f'{path}: not a verification .bin ({type(error).__name__}: {" ".join(str(error).split())}); '
                           'it may be cut short: copy it again') from None
    else:
        raise BinError(f'{path}: not a verification .bin')
    try:  # bytes(7) would be seven zeros, and bool('different') true
        same = np.asarray(same)
        fine = all(isinstance(image, bytes | bytearray | np.ndarray) for image in images) and np.isin(same, (0, 1)).all()
    except (TypeError, ValueError):
        fine = False
    if not fine:
        raise BinError(f'{path}: not a verification .bin: it must hold a list of encoded images, then one of booleans')
    if same.ndim != 1 or not len(same) or len(images) != 2 * len(same):
        raise BinError(f'{path}: {len(images)} images for {same.size} pairs; expected two images a pair')
    return [image.tobytes() if isinstance(image, np.ndarray) else bytes(image) for image in images], same.astype(bool)


def write_bin(path: str | os.PathLike, images: list[bytes], same) -> None:
    """Write a verification set that InsightFace's ``load_bin`` reads (see :func:`read_bin`).

    Raises:
        BinError: not two images a pair.
    """
    same = [bool(s) for s in same]
    if len(images) != 2 * len(same):
        raise BinError(f'{path}: {len(images)} images for {len(same)} pairs; expected two images a pair')
    write_atomic(path, pickle.dumps(([bytes(i) for i in images], same), protocol=4))


def read_pairs(text: str, name: str = 'pairs.txt') -> list[tuple[str, str, bool]]:
    """LFW's ``pairs.txt`` to ``(image, image, same)`` with images named ``NAME/NAME_0001`` (no suffix).

    Lines are ``NAME i j`` (same person) or ``NAME1 i NAME2 j``; a first line of counts is skipped.

    Raises:
        FaceError: a line that is neither.
    """
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split('\t') if '\t' in line else line.split()
        if not fields or (number == 1 and all(f.isdigit() for f in fields)):
            continue
        try:
            if len(fields) == 3:
                person, first, second = fields
                pairs.append((_lfw(person, first), _lfw(person, second), True))
            else:
                one, first, two, second = fields
                pairs.append((_lfw(one, first), _lfw(two, second), False))
        except ValueError:
            raise FaceError(f'{name}, line {number}: {line!r} is neither "NAME i j" nor "NAME1 i NAME2 j"') from None
    if not pairs:
        raise FaceError(f'{name}: no pairs')
    return pairs


def _lfw(person: str, number: str) -> str:
    return f'{person}/{person}_{int(number):04d}'
