"""Galleries in a Qdrant database: the real client in its local mode, beside the gallery of a file, and a server's errors."""

from __future__ import annotations

import json
import pickle
import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest

from zoo.cli import main
from zoo.pipeline.contract import Contract, ContractError
from zoo.pipeline.galleries import open_gallery
from zoo.pipeline.gallery import Gallery, GalleryError

pytest.importorskip('qdrant_client', reason="needs qdrant-client: pip install 'facezoo[qdrant]'")


def contract(**changes) -> Contract:
    return Contract(**{'model': 'net', 'preprocess': {'mean': 127.5, 'colour': 'RGB'}, 'flip': True,
                       'probe': np.eye(3, 16, dtype=np.float32), **changes})


@pytest.fixture
def address(tmp_path) -> str:
    return f'qdrant:{tmp_path}/base/people'


def enrol(gallery) -> None:
    """Ten persons, some with several pictures, one picture twice."""
    rng = np.random.default_rng(0)
    for number in range(10):
        rows = rng.normal(size=(1 + number % 3, 16))
        gallery.add(f'Person {number}', rows, [f'{i}.jpg' for i in range(len(rows))])
    gallery.add('Person 5', rng.normal(size=(2, 16)), ['1.jpg', '7.jpg'])


def test_answers_are_those_of_a_file(address):
    file = Gallery(contract())
    enrol(file)
    with open_gallery(address, contract(), change=True) as base:
        enrol(base)
    probes = np.random.default_rng(1).normal(size=(20, 16)).astype(np.float32)
    with open_gallery(address, contract()) as base:  # opened again: it was kept
        with pytest.raises(GalleryError, match='not finite'):
            base.search(np.full((1, 16), np.nan), 0.3)
        assert len(base) == len(file) == 10 and base.persons == file.persons
        for name in ('Person 5', 'Nobody'):
            one, other = file.faces(name), base.faces(name)
            assert one.keys() == other.keys() and all(np.allclose(one[key], other[key], atol=1e-6) for key in one)
        expected, found = (gallery.search(probes, 0.3, top=3) for gallery in (file, base))
        assert base.contract.preprocess == contract().preprocess
    assert len({matches[0].name for matches in expected}) > 4  # the probes are told apart
    assert {matches[0].known for matches in expected} == {True, False}
    for one, other in zip(expected, found, strict=True):
        assert [(m.name, m.known) for m in one] == [(m.name, m.known) for m in other]
        np.testing.assert_allclose([m.score for m in one], [m.score for m in other], atol=1e-6)


def test_persons_are_removed_all_or_none(address):
    with open_gallery(address, contract(), change=True) as base:
        enrol(base)
        with pytest.raises(GalleryError, match=r"'Person 55'; did you mean 'Person 5'"):
            base.remove('Person 1', 'Person 55')
        assert len(base) == 10
        assert base.remove('Person 1', 'Person 5') == [2, 4] and len(base) == 8
        found = {match.name for match in base.search(np.eye(16)[:1], 0, top=10)[0]}
        assert found == {f'Person {number}' for number in range(10)} - {'Person 1', 'Person 5'}
        base.remove(*base.persons)
        assert base.search(np.eye(16)[:2], 0) == [[], []]


def test_a_name_has_one_spelling(address):
    with open_gallery(address, contract(), change=True) as base:
        base.add('Jos\u00e9', np.eye(16)[:1], ['1.jpg'])
        base.add(' Jose\u0301', np.eye(16)[1:2], ['2.jpg'])
        assert base.persons == {'Jos\u00e9': ['1.jpg', '2.jpg']}
        assert base.remove('Jose\u0301 ') == [2] and len(base) == 0


def test_what_cannot_be_enrolled(address):
    with open_gallery(address, contract(), change=True) as base:
        for name, rows, word in ((' ', np.ones((1, 16)), 'needs a name'), ('Eve', np.ones((1, 4)), '16 numbers'),
                                 ('Eve', np.zeros((1, 16)), 'zero')):
            with pytest.raises(GalleryError, match=word):
                base.add(name, rows, ['a.jpg'])
        with pytest.raises(GalleryError, match='no face'):
            base.add('Eve', np.ones((0, 16)), [])
        with pytest.raises(GalleryError, match=r"'a\.jpg'"):
            base.add('Eve', np.ones((2, 16)), ['a.jpg', 'a.jpg'])
        assert len(base) == 0


@pytest.mark.parametrize(('changes', 'word'), [
    ({'flip': False}, 'flip'), ({'preprocess': {'mean': 127.5, 'colour': 'BGR'}}, 'colour'),
    ({'probe': np.eye(3, 8, dtype=np.float32)}, '8'), ({'probe': np.eye(16, dtype=np.float32)[5:8]}, 'test pattern')])
def test_another_model_is_refused(address, changes, word):
    with open_gallery(address, contract(), change=True) as base:
        enrol(base)
    for change in (False, True):
        with pytest.raises(ContractError, match=f'people.*{word}'), open_gallery(address, contract(**changes), change):
            pass


def test_a_strange_collection_is_refused(address, tmp_path):
    from qdrant_client import QdrantClient, models
    with closing(QdrantClient(path=str(tmp_path / 'base'))) as client:
        client.create_collection('people', vectors_config=models.VectorParams(size=16, distance=models.Distance.DOT))
    with pytest.raises(GalleryError, match='facezoo did not make'), open_gallery(address, contract(), change=True):
        pass


@pytest.mark.parametrize('payload', [None, {'title': 'a product'}])
def test_foreign_points_in_a_collection_are_named(address, payload):
    with open_gallery(address, contract(), change=True) as base:
        enrol(base)
        base._client.upsert('people', [base._models.PointStruct(id=1, payload=payload, vector={'template': [1.0] * 16})])
        for ask in (lambda: base.persons, lambda: base.search(np.ones((1, 16)), 0.3)):
            with pytest.raises(GalleryError, match='people: holds data that facezoo did not write'):
                ask()


@pytest.mark.parametrize('place', ['people', 'people/below', '../people'])
def test_a_folder_with_foreign_code_is_not_opened(address, tmp_path, place):
    """Wherever its list of collections, all of which are opened with the one that is asked for, says that it lies."""
    class Evil:
        def __reduce__(self):
            return (tmp_path / 'was_here').write_text, ('run',)

    with open_gallery(address, contract(), change=True) as base:
        enrol(base)
    meta, people = tmp_path / 'base' / 'meta.json', tmp_path / 'base' / 'collection' / 'people'
    listed = json.loads(meta.read_text())
    listed['collections'][place] = listed['collections']['people']
    meta.write_text(json.dumps(listed))
    path = people.parent / place / 'storage.sqlite'
    if place != 'people':
        path.parent.mkdir()
        shutil.copy(people / path.name, path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute('UPDATE points SET point = ? WHERE id IN (SELECT id FROM points LIMIT 1)', (pickle.dumps(Evil()),))
    with pytest.raises(GalleryError, match='safe to open'), open_gallery(address, contract()):
        pass
    assert not (tmp_path / 'was_here').exists()


def test_points_that_may_change_behind_the_look_at_them_are_refused(address, tmp_path):
    with open_gallery(address, contract(), change=True) as base:
        enrol(base)
    with closing(sqlite3.connect(tmp_path / 'base/collection/people/storage.sqlite')) as connection, connection:
        connection.execute('ALTER TABLE points RENAME TO kept')
        connection.execute('CREATE VIEW points AS SELECT rowid AS rowid, id, point FROM kept WHERE random() % 2')
    with pytest.raises(GalleryError, match='has a view'), open_gallery(address, contract()):
        pass


@pytest.mark.parametrize('meta', ['', '[]', '{}', '{"collections": [1]}'])
def test_a_damaged_list_of_collections_is_named(address, tmp_path, meta):
    with open_gallery(address, contract(), change=True) as base:
        enrol(base)
    (tmp_path / 'base' / 'meta.json').write_text(meta)
    with pytest.raises(GalleryError, match=r'meta\.json: not a Qdrant folder that is whole'), open_gallery(address, contract()):
        pass


def test_two_programs_cannot_share_a_folder(address):
    with open_gallery(address, contract(), change=True), \
            pytest.raises(GalleryError, match='already accessed'), open_gallery(address, contract()):
        pass


@pytest.mark.parametrize(('address', 'words'), [
    ('qdrant://127.0.0.1:9/people', ['is Qdrant running', 'people']),  # nothing listens there
    ('qdrant:nowhere/people', ['nowhere', 'facezoo enrol']),
    ('qdrant:people', ['qdrant:FOLDER/COLLECTION']),
    ('qdrant://host:6333', ['qdrant://HOST:6333/COLLECTION']),
    ('milvus://host/people', ['milvus', 'qdrant://HOST:6333/COLLECTION']),
])
def test_errors_on_the_command_line(address, words, capsys):
    assert main(['enrol', address, '--list']) == 1
    said = capsys.readouterr().err
    assert said.startswith('facezoo enrol: ') and said.count('\n') == 1 and all(word in said for word in words), said


def test_removing_from_a_folder_that_is_not_there_makes_none(tmp_path, capsys):
    assert main(['enrol', f'qdrant:{tmp_path}/typo/people', '--remove', 'Ann']) == 1
    assert 'typo: no such gallery' in capsys.readouterr().err and not [*tmp_path.iterdir()]


def test_a_server_is_addressed_as_it_should_be(monkeypatch):
    """No server here: what the client is made with, and that its errors arrive."""
    import qdrant_client
    made = []

    def client(**options):
        made.append(options)
        raise RuntimeError('not now')
    monkeypatch.setattr(qdrant_client, 'QdrantClient', client)
    monkeypatch.setenv('QDRANT_API_KEY', 'secret')
    for address in ('qdrant://host:6333/people', 'qdrant+https://cloud.example:6333/people'):
        with pytest.raises(GalleryError, match='not now'), open_gallery(address):
            pass
    assert [m['url'] for m in made] == ['http://host:6333', 'https://cloud.example:6333']
    assert {m['api_key'] for m in made} == {'secret'}
