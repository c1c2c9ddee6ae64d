"""Known persons: their embeddings on disk, and the search for the most similar one.

Every enrolled picture is kept as one row; a person is searched by the mean of the rows (templates of several pictures are
better than any one of them, Cao et al. 2018, section 5.2). Up to a hundred thousand persons a matrix product answers; beyond,
FAISS does, which must then be installed (:mod:`zoo.pipeline.index`).
"""

from __future__ import annotations

import json
import os
import threading
import unicodedata
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from plugins.files import atomic_path
from plugins.preprocess import l2_normalise
from plugins.registry import suggest
from zoo.pipeline.contract import Contract

__all__ = ['Gallery', 'GalleryError', 'KnownPersons', 'Match', 'checked_faces', 'checked_probes', 'clean_name', 'nobody']

_FORMAT = 'facezoo gallery 1'
_BLOCK = 20_000  # persons whose templates are made at once


class GalleryError(ValueError):
    """A gallery file is damaged, or does not hold what was asked for."""


@dataclass(frozen=True)
class Match:
    """The person of a gallery who is most similar to a face.

    Attributes:
        name: the person; score: cosine similarity.
        known: the score is above the threshold. Otherwise the answer is "unknown", and ``name`` only the nearest person.
    """

    name: str
    score: float
    known: bool

    def to_dict(self) -> dict:
        return {'nearest': self.name, 'similarity': round(self.score, 4)}


class KnownPersons(Protocol):
    """Whoever can say who a face is: a :class:`Gallery`, or a database that behaves like one.

    Attributes:
        contract: what made the embeddings; persons: enrolled pictures by person, sorted by name.
    """

    contract: Contract

    @property
    def persons(self) -> dict[str, list[str]]: ...

    def __len__(self) -> int: ...

    def faces(self, name: str) -> dict[str, np.ndarray]: ...

    def add(self, name: str, embeddings: np.ndarray, sources: Sequence[str]) -> None: ...

    def remove(self, *names: str) -> list[int]: ...

    def search(self, embeddings: np.ndarray, threshold: float, top: int = 1) -> list[list[Match]]: ...


class Gallery:
    """Embeddings of known persons, in memory and in a file. Several threads may search, change and save one.

    Args:
        contract: what made the embeddings.
        names, embeddings, sources: person, unit-length row and picture of each enrolled face, ``M`` of each.
    """

    def __init__(self, contract: Contract, names: Sequence[str] = (), embeddings: np.ndarray | None = None,
                 sources: Sequence[str] = ()) -> None:
        self.contract = contract
        self._faces: dict[str, dict[str, np.ndarray]] = {}  # name: {picture: unit-length row}
        self._index = self._file = self._stamp = None
        self._lock = threading.Lock()
        for name, source, row in zip(names, sources, () if embeddings is None else embeddings, strict=True):
            self._faces.setdefault(clean_name(name), {})[source] = row

    def __len__(self) -> int:
        """Number of persons."""
        return len(self._faces)

    @property
    def persons(self) -> dict[str, list[str]]:
        """Enrolled pictures by person, sorted by name."""
        with self._lock:
            return {name: [*self._faces[name]] for name in sorted(self._faces)}

    def faces(self, name: str) -> dict[str, np.ndarray]:
        """A person's faces by picture, float32 ``(D,)`` of unit length; none for somebody who is not enrolled."""
        with self._lock:
            return dict(self._faces.get(clean_name(name), {}))

    def add(self, name: str, embeddings: np.ndarray, sources: Sequence[str]) -> None:
        """Enrol faces of a person, new or known; a picture enrolled before under this name is replaced.

        Args:
            embeddings: ``(F, D)``, as a :class:`zoo.pipeline.recogniser.Pipeline` of the same contract gives them.

        Raises:
            GalleryError: as :func:`clean_name` and :func:`checked_faces`; nothing is enrolled then.
        """
        name = clean_name(name)
        rows = checked_faces(name, embeddings, sources, self.contract.probe.shape[1])
        with self._lock:
            self._faces.setdefault(name, {}).update(zip(map(str, sources), rows, strict=True))
            self._index = self._stamp = None

    def remove(self, *names: str) -> list[int]:
        """Forget persons: all of them, or none when one is unknown.

        Returns:
            How many faces of each were removed.

        Raises:
            GalleryError: nobody of that name; close ones are suggested.
        """
        names = [*map(clean_name, names)]
        with self._lock:
            for name in names:
                if name not in self._faces:
                    raise nobody(name, self._faces)
            self._index = self._stamp = None
            return [len(self._faces.pop(name, ())) for name in names]

    def templates(self) -> tuple[list[str], np.ndarray]:
        """Names, sorted, and the unit-length mean of each person's faces, float32 ``(P, D)``."""
        names = sorted(self._faces)
        found = np.empty((len(names), self.contract.probe.shape[1]), np.float32)
        for at in range(0, len(names), _BLOCK):
            part = names[at:at + _BLOCK]
            begins = np.cumsum([0, *(len(self._faces[name]) for name in part)])[:-1]
            found[at:at + _BLOCK] = l2_normalise(np.add.reduceat(self._rows(part), begins, axis=0))
        return names, found

    def _rows(self, names: Iterable[str]) -> np.ndarray:
        """The faces of some persons, one after the other, ``(M, D)``."""
        rows = [row for name in names for row in self._faces[name].values()]
        return np.array(rows, np.float32).reshape(len(rows), self.contract.probe.shape[1])

    def search(self, embeddings: np.ndarray, threshold: float, top: int = 1) -> list[list[Match]]:
        """The most similar persons of each face, best first; fewer than ``top``, or none, when no more are enrolled.

        Args:
            embeddings: ``(F, D)`` of any length (a network's own are not of unit length), made under this gallery's contract.

        Raises:
            GalleryError: as :func:`checked_probes`.
        """
        embeddings = checked_probes(embeddings, self.contract.probe.shape[1])
        with self._lock:  # else an index of the persons before a change would be kept behind it
            if not self._faces:
                return [[] for _ in embeddings]
            if self._index is None:
                from zoo.pipeline.index import make_index
                index = make_index(len(self), lambda: self.templates()[1], f'{self._file}.index', self._stamp)
                self._index = sorted(self._faces), index
            names, index = self._index
        scores, found = index.search(embeddings, min(top, len(names)))
        return [[Match(names[i], float(s), bool(s > threshold)) for s, i in zip(*row, strict=True)]
                for row in zip(scores, found, strict=True)]

    def save(self, path: str | os.PathLike) -> None:
        """Write all to one file; a crash leaves the old file whole. The index of a large gallery will lie beside it
        again after the next search."""
        with self._lock:
            facts = {'format': _FORMAT, **self.contract.to_dict(),
                     'names': [name for name, faces in self._faces.items() for _ in faces],
                     'sources': [source for faces in self._faces.values() for source in faces]}
            with atomic_path(path) as temporary:
                with open(temporary, 'wb') as file:
                    np.savez(file, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), probe=self.contract.probe,
                             embeddings=self._rows(self._faces))
                stamp = _stamp(temporary)
            if stamp != self._stamp:
                with suppress(OSError):  # the index of before: it fits no more, and still holds whom --remove has removed
                    os.unlink(f'{path}.index')
            self._file, self._stamp = path, stamp

    @classmethod
    def load(cls, path: str | os.PathLike, contract: Contract | None = None) -> Gallery:
        """Read a gallery.

        Args:
            contract: of the embedder that will be compared with it.

        Raises:
            FileNotFoundError, IsADirectoryError: no such file.
            GalleryError: not a gallery, or a damaged one.
            ContractError: made by another model or preprocessing.
        """
        path = Path(path)
        if path.is_dir():
            raise IsADirectoryError(f'{path}: a folder, not a gallery file; name the file that '
                                    '`facezoo enrol GALLERY.npz PEOPLE_FOLDER` makes')
        if not path.is_file():
            raise FileNotFoundError(f'{path}: no such gallery; make it with `facezoo enrol {path} PEOPLE_FOLDER`')
        try:
            with open(path, 'rb') as file:  # opened once: its stamp must not be that of a file which replaces it meanwhile
                if not zipfile.is_zipfile(file):  # numpy would take it for a pickle, and advise to load it as one
                    raise ValueError('no .npz, or cut short')
                stamp = _stamp(file)
                file.seek(0)
                with np.load(file, allow_pickle=False) as data:
                    facts = json.loads(data['facts'].tobytes())
                    rows, probe = data['embeddings'], data['probe']
            if facts['format'] != _FORMAT or len(facts['names']) != len(rows) or len(facts['sources']) != len(rows):
                raise ValueError(f'format {facts["format"]!r}, {len(facts["names"])} names, {len(rows)} faces')
            found = cls(Contract.from_dict(facts, probe), facts['names'], rows, facts['sources'])
        except (ValueError, KeyError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise GalleryError(f'{path}: not a whole gallery ({error}); restore a copy or enrol again') from None
        if contract:
            contract.require(found.contract, str(path))
        found._file, found._stamp = path, stamp
        return found


def _stamp(file: str | os.PathLike | BinaryIO) -> list:
    """What tells a gallery file's content at no cost: the checksums in the zip's directory."""
    with zipfile.ZipFile(file) as archive:
        return [[member.filename, member.CRC, member.file_size] for member in archive.infolist()]


def clean_name(name: str) -> str:
    """The one spelling of a name: without space around it, and accents composed (macOS gives them as signs of their own).

    Raises:
        GalleryError: nothing is left.
    """
    found = unicodedata.normalize('NFC', name).strip()
    if not found:
        raise GalleryError('a person needs a name')
    return found


def checked_faces(name: str, embeddings: np.ndarray, sources: Sequence[str], width: int) -> np.ndarray:
    """Embeddings ``(F, width)`` that are fit to be enrolled, float32 of unit length.

    Raises:
        GalleryError: no face, two faces of one picture, or embeddings of another number or length, or that are zero or not
            finite.
    """
    embeddings, pictures = np.atleast_2d(embeddings), [*map(str, sources)]
    if not pictures:
        raise GalleryError(f'{name}: no face; a person needs at least one')
    if len({*pictures}) < len(pictures):
        double = next(picture for picture in pictures if pictures.count(picture) > 1)
        raise GalleryError(f'{name}: several faces have the source {double!r}; give each its own')
    if embeddings.shape != (len(sources), width):
        raise GalleryError(f'{name}: embeddings {embeddings.shape} for {len(sources)} pictures; this gallery holds '
                           f'{width} numbers a face')
    if not np.isfinite(embeddings).all() or not embeddings.any(1).all():
        raise GalleryError(f'{name}: an embedding is zero or not finite')
    return l2_normalise(embeddings).astype(np.float32)


def checked_probes(embeddings: np.ndarray, width: int) -> np.ndarray:
    """Embeddings ``(F, width)``, ``(width,)`` or an empty list that are fit to be searched for, float32 ``(F, width)`` of unit
    length: at any other the scores would not be cosines, and everybody would be known. A zero one stays zero, and is like
    nobody.

    Raises:
        GalleryError: embeddings of another length, or not finite.
    """
    embeddings = np.atleast_2d(embeddings) if len(embeddings) else np.empty((0, width))
    if embeddings.ndim != 2 or embeddings.shape[1] != width:
        raise GalleryError(f'embeddings {embeddings.shape} cannot be searched for; this gallery holds {width} numbers a face')
    if not np.isfinite(embeddings).all():
        raise GalleryError('an embedding to search for is not finite')
    return l2_normalise(embeddings.astype(np.float64)).astype(np.float32)


def nobody(name: str, names: Iterable[str]) -> GalleryError:
    """The error for a name that nobody has, with close ones."""
    names = list(names)
    return GalleryError(f'nobody is enrolled as {name!r}{suggest(name, names, f"; --list shows who is ({len(names)} names)")}')
