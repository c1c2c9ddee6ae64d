"""Known persons in a Qdrant database: for galleries that several machines share, or that one no longer holds.

A person is one point: the vector ``template`` that is searched (unit-length mean of the person's faces), all the faces as the
multivector ``faces``, and the pictures' names. A person is therefore changed in one step, and a crash leaves the old or the
new one. The contract lies in the collection's metadata, and embeddings of another model are refused as by a file.
"""

from __future__ import annotations

import json
import os
import pickle
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np

from plugins.extras import require
from plugins.preprocess import l2_normalise
from zoo.pipeline.contract import Contract
from zoo.pipeline.gallery import GalleryError, Match, checked_faces, checked_probes, clean_name, nobody

__all__ = ['QdrantGallery', 'open_qdrant']

_FORMAT = 'facezoo gallery 1'
_PAGE = 1000  # persons read at once
_TIMEOUT = 30  # seconds
_HARMLESS = ('qdrant_client.http.models.models', 'PointStruct')


class QdrantGallery:
    """A collection of known persons, in a server or in a folder; the same methods as :class:`zoo.pipeline.gallery.Gallery`.

    Every change is written at once. Two programs may search and change it at the same time; pictures that both add to the
    *same* person in the same moment may be lost.

    Args:
        client: a ``qdrant_client.QdrantClient``.
        collection: its name.
        contract: of the embedder that will be compared with it.
        create: make the collection when there is none.

    Raises:
        GalleryError: no such collection, one that facezoo did not make, or no answer.
        ContractError: made by another model or preprocessing.
    """

    def __init__(self, client, collection: str, contract: Contract | None = None, create: bool = False) -> None:
        self._client, self._collection = client, collection
        self._models = require('qdrant_client.models', 'qdrant')
        with self._answered():
            exists = client.collection_exists(collection)
        if not exists:
            if not (create and contract):
                raise GalleryError(f'{collection}: no such collection; `facezoo enrol ADDRESS PEOPLE_FOLDER` makes it')
            self._create(contract)
        self.contract = self._stored_contract()
        if contract:
            contract.require(self.contract, f'the collection {collection}')

    def __len__(self) -> int:
        """Number of persons."""
        with self._answered():
            return self._client.count(self._collection, exact=True).count

    @property
    def persons(self) -> dict[str, list[str]]:
        """Enrolled pictures by person, sorted by name."""
        found, offset = {}, None
        with self._answered():
            while True:
                points, offset = self._client.scroll(self._collection, limit=_PAGE, offset=offset)
                found |= {point.payload['name']: point.payload['sources'] for point in points}
                if offset is None:
                    return dict(sorted(found.items()))

    def faces(self, name: str) -> dict[str, np.ndarray]:
        """As :meth:`zoo.pipeline.gallery.Gallery.faces`."""
        with self._answered():
            known = self._client.retrieve(self._collection, [_number(clean_name(name))], with_vectors=['faces'])
            return {source: np.array(row, np.float32) for point in known
                    for source, row in zip(point.payload['sources'], point.vector['faces'], strict=True)}

    def add(self, name: str, embeddings: np.ndarray, sources: Sequence[str]) -> None:
        """As :meth:`zoo.pipeline.gallery.Gallery.add`."""
        name = clean_name(name)
        rows = checked_faces(name, embeddings, sources, self.contract.probe.shape[1])
        faces = self.faces(name) | dict(zip(map(str, sources), rows, strict=True))
        table = np.stack([*faces.values()])
        template = l2_normalise(table.sum(0, keepdims=True))[0]
        with self._answered():
            self._client.upsert(self._collection, [self._models.PointStruct(
                id=_number(name), payload={'name': name, 'sources': [*faces]},
                vector={'template': template.tolist(), 'faces': table.tolist()})], wait=True)

    def remove(self, *names: str) -> list[int]:
        """As :meth:`zoo.pipeline.gallery.Gallery.remove`."""
        names = [*map(clean_name, names)]
        with self._answered():
            known = self._client.retrieve(self._collection, [_number(name) for name in names])
            faces = {point.payload['name']: len(point.payload['sources']) for point in known}
            for name in names:
                if name not in faces:
                    raise nobody(name, self.persons)
            self._client.delete(self._collection, [_number(name) for name in names], wait=True)
        return [faces[name] for name in names]

    def search(self, embeddings: np.ndarray, threshold: float, top: int = 1) -> list[list[Match]]:
        """As :meth:`zoo.pipeline.gallery.Gallery.search`; all faces in one request.

        The search is exact, because the collection is made without a graph (HNSW, a database's usual way): among a million
        persons a graph misses one known person in ten (``benchmarks/gallery.py``).
        """
        asked = [self._models.QueryRequest(query=row, using='template', limit=top, with_payload=['name'])
                 for row in checked_probes(embeddings, self.contract.probe.shape[1]).tolist()]
        with self._answered():
            answers = self._client.query_batch_points(self._collection, asked)
            return [[Match(point.payload['name'], float(point.score), point.score > threshold) for point in answer.points]
                    for answer in answers]

    def _create(self, contract: Contract) -> None:
        models, width = self._models, contract.probe.shape[1]
        facts = {'format': _FORMAT, **contract.to_dict(), 'probe': contract.probe.tolist()}
        several = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
        common = {'size': width, 'distance': models.Distance.DOT, 'hnsw_config': models.HnswConfigDiff(m=0)}
        with self._answered():
            self._client.create_collection(self._collection, metadata=facts, vectors_config={
                'template': models.VectorParams(**common),
                'faces': models.VectorParams(**common, multivector_config=several)})

    def _stored_contract(self) -> Contract:
        with self._answered():
            facts = self._client.get_collection(self._collection).config.metadata or {}
        if facts.get('format') != _FORMAT:
            raise GalleryError(f'{self._collection}: facezoo did not make this collection, or its server does not keep '
                               'metadata (Qdrant 1.16 and later do); name another collection, or update the server')
        with self._answered():
            return Contract.from_dict(facts, np.array(facts['probe'], np.float32))

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """The client's errors as those of a gallery."""
        failure = require('qdrant_client.http.exceptions', 'qdrant').ApiException
        try:
            yield
        except failure as error:
            raise GalleryError(f'{self._collection}: the database did not answer as it should ({error}); is Qdrant running at '
                               'that address, and QDRANT_API_KEY right?') from None
        except (KeyError, TypeError) as error:  # a point or metadata without what belongs to a person
            raise GalleryError(f'{self._collection}: holds data that facezoo did not write ({error}); remove them, or name '
                               'another collection') from None


@contextmanager
def open_qdrant(address: str, contract: Contract | None, change: bool) -> Iterator[QdrantGallery]:
    """A gallery in a database.

    Args:
        address: ``qdrant://HOST:PORT/COLLECTION``, ``qdrant+https://...`` (key in the variable ``QDRANT_API_KEY``), or
            ``qdrant:FOLDER/COLLECTION``, a database without a server for trying out and for some thousand persons.
        change: with a ``contract``, make the collection when there is none.

    Raises:
        GalleryError: the address names no collection; otherwise as :class:`QdrantGallery`.
        MissingExtra: qdrant-client is not installed.
    """
    scheme, _, place = address.partition(':')
    place, _, collection = place.rpartition('/')
    if not place.strip('/') or not collection:
        raise GalleryError(f'{address}: name a collection: qdrant://HOST:6333/COLLECTION or qdrant:FOLDER/COLLECTION')
    client, create = require('qdrant_client', 'qdrant').QdrantClient, change and contract is not None
    if place.startswith('//'):
        options = {'url': f'{scheme.partition("+")[2] or "http"}:{place}', 'timeout': _TIMEOUT, 'check_compatibility': False,
                   'api_key': os.environ.get('QDRANT_API_KEY')}
    else:
        options = {'path': _checked_folder(Path(place), collection, create)}
    try:
        opened = client(**options)
    except RuntimeError as error:  # the folder's lock
        raise GalleryError(f'{address}: {error}') from None
    with closing(opened):
        yield QdrantGallery(opened, collection, contract, create)


def _checked_folder(folder: Path, collection: str, create: bool) -> str:
    """The folder, after a look at what the client will unpickle from it: a stranger's folder must not run code."""
    if not create and not folder.is_dir():
        raise FileNotFoundError(f'{folder}: no such gallery; make it with `facezoo enrol qdrant:{folder}/{collection} '
                                'PEOPLE_FOLDER`')
    path = folder / 'meta.json'
    try:
        for name in json.loads(path.read_text())['collections'] if path.exists() else ():
            path = folder / 'collection' / name / 'storage.sqlite'  # the client opens all, also where a name holds / or ..
            if path.exists():
                _check_points(path)
    except (sqlite3.Error, pickle.UnpicklingError, EOFError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise GalleryError(f'{path}: not a Qdrant folder that is whole and safe to open ({error}); restore a copy '
                           'or enrol again') from None
    return str(folder)


def _check_points(path: Path) -> None:
    with closing(sqlite3.connect(f'{path.absolute().as_uri()}?mode=ro', uri=True)) as connection:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'view'").fetchone():
            raise pickle.UnpicklingError('it has a view, which may show the client other points than were checked')
        for (point,) in connection.execute('SELECT point FROM points'):
            _Careful(BytesIO(point)).load()


class _Careful(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) != _HARMLESS:
            raise pickle.UnpicklingError(f'it wants to load {module}.{name}, which a gallery never needs')
        return super().find_class(module, name)


def _number(name: str) -> str:
    """The point of a person: the same for everybody who enrols that name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f'facezoo:{name}'))
