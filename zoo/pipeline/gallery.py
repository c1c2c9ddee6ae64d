"""Known persons: their embeddings on disk, and the search for the most similar one.

Every enrolled picture is kept as one row; a person is searched by the mean of the rows (templates of several pictures are
better than any one of them, Cao et al. 2018, section 5.2). Up to some hundred thousand persons a matrix product answers in
milliseconds; beyond, FAISS does, where it is installed.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plugins.files import atomic_path
from plugins.preprocess import l2_normalise
from plugins.registry import suggest
from zoo.pipeline.contract import Contract, ContractError

__all__ = ['Gallery', 'GalleryError', 'Match']

_FORMAT = 'facezoo gallery 1'


class GalleryError(ValueError):
    """A gallery file is damaged, or does not hold what was asked for."""


@dataclass(frozen=True)
class Match:
    """The person of a gallery who is most similar to a face.

    Attributes:
        name: the person; score: cosine similarity.
        known: the score reaches the threshold. Otherwise the answer is "unknown", and ``name`` only the nearest person.
    """

    name: str
    score: float
    known: bool

    def to_dict(self) -> dict:
        return {'nearest': self.name, 'similarity': round(self.score, 4)}


class Gallery:
    """Embeddings of known persons.

    Args:
        contract: what made the embeddings.
        names, embeddings, sources: person, unit-length row and picture of each enrolled face, ``M`` of each.
    """

    def __init__(self, contract: Contract, names: Sequence[str] = (), embeddings: np.ndarray | None = None,
                 sources: Sequence[str] = ()) -> None:
        self.contract = contract
        self._names, self._sources = list(names), list(sources)
        self._rows = np.empty((0, contract.probe.shape[1]), np.float32) if embeddings is None else embeddings
        self._index = None

    def __len__(self) -> int:
        """Number of persons."""
        return len(set(self._names))

    @property
    def persons(self) -> dict[str, list[str]]:
        """Enrolled pictures by person, sorted by name."""
        found: dict[str, list[str]] = {name: [] for name in sorted(set(self._names))}
        for name, source in zip(self._names, self._sources, strict=True):
            found[name].append(source)
        return found

    def add(self, name: str, embeddings: np.ndarray, sources: Sequence[str]) -> None:
        """Enrol faces of a person, new or known; a picture enrolled before under this name is replaced.

        Args:
            embeddings: ``(F, D)``, as a :class:`zoo.pipeline.recogniser.Pipeline` of the same contract gives them.

        Raises:
            GalleryError: an empty name, or embeddings of another length.
        """
        embeddings = np.atleast_2d(embeddings)
        if not name.strip():
            raise GalleryError('a person needs a name')
        if embeddings.shape != (len(sources), self._rows.shape[1]):
            raise GalleryError(f'{name}: embeddings {embeddings.shape} for {len(sources)} pictures; this gallery holds '
                               f'{self._rows.shape[1]} numbers a face')
        if not np.isfinite(embeddings).all() or not embeddings.any(1).all():
            raise GalleryError(f'{name}: an embedding is zero or not finite')
        again = set(sources)
        self._keep([n != name or s not in again for n, s in zip(self._names, self._sources, strict=True)])
        self._names += [name] * len(sources)
        self._sources += map(str, sources)
        self._rows = np.concatenate([self._rows, l2_normalise(embeddings).astype(np.float32)])

    def remove(self, name: str) -> int:
        """Forget a person.

        Returns:
            How many faces were removed.

        Raises:
            GalleryError: nobody of that name; close ones are suggested.
        """
        count = self._names.count(name)
        if not count:
            raise GalleryError(f'nobody is enrolled as {name!r}{suggest(name, set(self._names))}')
        self._keep([n != name for n in self._names])
        return count

    def _keep(self, mask: list[bool]) -> None:
        self._names = [n for n, kept in zip(self._names, mask, strict=True) if kept]
        self._sources = [s for s, kept in zip(self._sources, mask, strict=True) if kept]
        self._rows, self._index = self._rows[np.array(mask, bool)], None

    def templates(self) -> tuple[list[str], np.ndarray]:
        """Names, sorted, and the unit-length mean of each person's faces, float32 ``(P, D)``."""
        names, owner = np.unique(np.array(self._names, str), return_inverse=True)
        sums = np.zeros((len(names), self._rows.shape[1]), np.float32)
        np.add.at(sums, owner, self._rows)
        return names.tolist(), l2_normalise(sums)

    def search(self, embeddings: np.ndarray, threshold: float, top: int = 1) -> list[list[Match]]:
        """The most similar persons of each face, best first.

        Args:
            embeddings: unit length, ``(F, D)``, made under this gallery's contract.

        Raises:
            GalleryError: nobody is enrolled.
        """
        if not self._names:
            raise GalleryError('the gallery is empty: enrol somebody first')
        if self._index is None:
            from zoo.pipeline.index import make_index
            names, rows = self.templates()
            self._index = names, make_index(rows)
        names, index = self._index
        scores, found = index.search(np.atleast_2d(embeddings).astype(np.float32), min(top, len(names)))
        return [[Match(names[i], float(s), bool(s >= threshold)) for s, i in zip(*row, strict=True)]
                for row in zip(scores, found, strict=True)]

    def save(self, path: str | os.PathLike) -> None:
        """Write all to one file; a crash leaves the old file whole."""
        facts = {'format': _FORMAT, 'model': self.contract.model, 'preprocess': self.contract.preprocess,
                 'flip': self.contract.flip, 'names': self._names, 'sources': self._sources}
        with atomic_path(path) as temporary, open(temporary, 'wb') as file:
            np.savez(file, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), probe=self.contract.probe,
                     embeddings=self._rows)

    @classmethod
    def load(cls, path: str | os.PathLike, contract: Contract | None = None) -> Gallery:
        """Read a gallery.

        Args:
            contract: of the embedder that will be compared with it.

        Raises:
            FileNotFoundError: no such file.
            GalleryError: not a gallery, or a damaged one.
            ContractError: made by another model or preprocessing.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f'{path}: no such gallery; make it with `facezoo enrol`')
        try:
            with np.load(path, allow_pickle=False) as data:
                facts = json.loads(data['facts'].tobytes())
                rows, probe = data['embeddings'], data['probe']
            if facts['format'] != _FORMAT or len(facts['names']) != len(rows) or len(facts['sources']) != len(rows):
                raise ValueError(f'format {facts["format"]!r}, {len(facts["names"])} names, {len(rows)} faces')
            found = cls(Contract(facts['model'], facts['preprocess'], facts['flip'], probe), facts['names'], rows,
                        facts['sources'])
        except (ValueError, KeyError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise GalleryError(f'{path}: not a whole gallery ({error}); restore a copy or enrol again') from None
        if contract:
            contract.require(found.contract, str(path))
        return found


__all__ += ['ContractError']
