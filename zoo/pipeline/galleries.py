"""Galleries by address: a file, or a collection of a vector database."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from plugins.files import locked
from zoo.pipeline.contract import Contract
from zoo.pipeline.gallery import Gallery, GalleryError, KnownPersons

__all__ = ['ADDRESSES', 'open_gallery']

ADDRESSES = 'file (.npz), qdrant://HOST:6333/COLLECTION or qdrant:FOLDER/COLLECTION'
_DATABASES = {'qdrant': ('zoo.pipeline.qdrant', 'open_qdrant'), 'qdrant+https': ('zoo.pipeline.qdrant', 'open_qdrant')}


def open_gallery(address: str | os.PathLike, contract: Contract | None = None,
                 change: bool = False) -> AbstractContextManager[KnownPersons]:
    """The known persons at an address, to be used in a ``with`` statement.

    Args:
        contract: of the embedder that will be compared with them.
        change: what the ``with`` block changes is kept when it ends without an error; with a ``contract``, a gallery that does
            not exist is made.

    Raises:
        FileNotFoundError, GalleryError: nothing is there, it is not a gallery, or it cannot be reached.
        ContractError: made by another model or preprocessing.
    """
    scheme, colon, rest = str(address).partition(':')
    if colon and scheme in _DATABASES:
        module, opener = _DATABASES[scheme]
        return getattr(importlib.import_module(module), opener)(str(address), contract, change)
    if colon and rest.startswith('//'):
        raise GalleryError(f'{address}: {scheme!r} is no database that facezoo knows; give a {ADDRESSES}')
    return _open_file(Path(address), contract, change)


@contextmanager
def _open_file(path: Path, contract: Contract | None, change: bool) -> Iterator[Gallery]:
    if change and not os.access(_existing(path), os.W_OK):  # known before the faces are embedded
        raise PermissionError(f'{path}: this gallery cannot be written; choose another place, or change the permissions')
    before = _state(path)
    gallery = Gallery(contract) if change and contract and before is None else Gallery.load(path, contract)
    yield gallery
    if change:
        with locked(path):
            if _state(path) != before:
                raise GalleryError(f'{path}: another program has changed it meanwhile; nothing was written, run the command '
                                   'again')
            gallery.save(path)


def _existing(path: Path) -> Path:
    """The folder that a file will be written to, or the part of its path that is there."""
    return next(folder for folder in Path(os.path.realpath(path)).parents if folder.exists())


def _state(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is replaced."""
    if not path.exists():
        return None
    facts = path.stat()
    return facts.st_ino, facts.st_mtime_ns, facts.st_size
