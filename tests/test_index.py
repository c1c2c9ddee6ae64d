"""The searches in large galleries, and the index that is kept beside a gallery."""

from __future__ import annotations

import logging
import os

import numpy as np
import pytest

from zoo.pipeline import index
from zoo.pipeline.contract import Contract
from zoo.pipeline.gallery import Gallery

PERSONS, WIDTH = 3000, 64


@pytest.fixture(scope='module')
def rows() -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(PERSONS, WIDTH)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope='module')
def probes(rows) -> np.ndarray:
    """Of the first 200 persons, with a cosine of about 0.6 to their rows."""
    probes = rows[:200] + np.random.default_rng(1).normal(0, 0.16, (200, WIDTH)).astype(np.float32)
    return probes / np.linalg.norm(probes, axis=1, keepdims=True)


@pytest.fixture
def faiss(monkeypatch):
    monkeypatch.setattr(index, 'EXACT_UP_TO', 100)
    return pytest.importorskip('faiss', reason="needs faiss-cpu: pip install 'facezoo[faiss]'")


def made(rows, path) -> Gallery:
    gallery = Gallery(Contract('net', {'mean': 127.5}, True, np.eye(3, WIDTH, dtype=np.float32)),
                      [f'{i:05}' for i in range(len(rows))], rows, ['a'] * len(rows))
    gallery.save(path)
    return gallery


def test_exact_search_in_parts(rows, probes, monkeypatch):
    scores, found = index.ExactIndex(rows).search(probes, 3)
    assert (found[:, 0] == np.arange(200)).mean() > 0.9 and (np.diff(scores, axis=1) <= 0).all()
    np.testing.assert_allclose(scores[:, 0], (probes @ rows.T).max(1), rtol=1e-6)
    monkeypatch.setattr(index, '_SCORES', 7 * PERSONS)
    np.testing.assert_array_equal(index.ExactIndex(rows).search(probes, 3)[1], found)
    assert index.ExactIndex(rows).search(probes[:0], 3)[1].shape == (0, 3)


def test_faiss_finds_what_the_product_finds(rows, probes, faiss):
    exact, fast = index.ExactIndex(rows).search(probes, 3), index.FaissIndex(rows).search(probes, 3)
    assert len(set(exact[1][:, 0])) > 150 and (exact[1][:, 0] == fast[1][:, 0]).mean() > 0.98
    np.testing.assert_allclose(exact[0][:, 0], fast[0][:, 0], atol=5e-3)


def test_the_index_is_kept_and_belongs_to_its_rows(rows, probes, faiss, tmp_path, monkeypatch):
    path, built = tmp_path / 'gallery.npz', []
    build = index.FaissIndex.__init__
    monkeypatch.setattr(index.FaissIndex, '__init__', lambda *args: built.append(1) or build(*args))
    made(rows, path)
    first = Gallery.load(path).search(probes, 0.3, top=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['gallery.npz', 'gallery.npz.index'] and len(built) == 1
    assert Gallery.load(path).search(probes, 0.3, top=2) == first and len(built) == 1  # read, not built
    changed = Gallery.load(path)
    changed.remove('00000')
    assert changed.search(probes[:1], 0.3)[0][0].name != '00000' == first[0][0].name and len(built) == 2
    changed.save(path)
    assert Gallery.load(path).search(probes[:1], 0.3) == changed.search(probes[:1], 0.3) and len(built) == 3
    assert Gallery.load(path).search(probes[:1], 0.3)[0][0].name != '00000' and len(built) == 3
    made(np.roll(rows, 1, 0), path)  # as many persons with other faces
    assert Gallery.load(path).search(probes[:1], 0.3)[0][0].name == '00001' and len(built) == 4


@pytest.mark.parametrize('moment', ['before its arrays are read', 'after'])
def test_a_gallery_that_is_replaced_while_it_is_read(moment, rows, probes, faiss, tmp_path, monkeypatch):
    """Its index is that of what was read: kept as that of the new file, it would name everybody wrongly from then on."""
    path, new = tmp_path / 'gallery.npz', tmp_path / 'new.npz'
    made(rows, path)
    made(np.roll(rows, 1, 0), new)
    where, name = (np, 'load') if moment.startswith('before') else (Gallery, '__init__')
    with monkeypatch.context() as patch:
        function = getattr(where, name)
        patch.setattr(where, name, lambda *args, **options: (os.replace(new, path), function(*args, **options))[1])
        old = Gallery.load(path)
    assert old.search(probes[:1], 0.3)[0][0].name == '00000'
    assert Gallery.load(path).search(probes[:1], 0.3)[0][0].name == '00001'


def test_the_index_is_no_more_public_than_its_gallery(rows, probes, faiss, tmp_path):
    path = tmp_path / 'gallery.npz'
    made(rows, path)
    for mode in (0o600, 0o640):
        path.chmod(mode)
        gallery = Gallery.load(path)
        gallery.add('00000', rows[:1], [str(mode)])  # the index of before does not count any more
        gallery.save(path)
        gallery.search(probes, 0.3)
        assert [file.stat().st_mode & 0o777 for file in (path, tmp_path / 'gallery.npz.index')] == [mode, mode]


def test_whoever_is_removed_is_in_no_index(rows, probes, faiss, tmp_path):
    path = tmp_path / 'gallery.npz'
    made(rows, path).search(probes, 0.3)
    gallery = Gallery.load(path)
    gallery.save(path)  # as it is: the index still fits
    assert (tmp_path / 'gallery.npz.index').exists()
    gallery.remove('00000')
    gallery.save(path)
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize('damage', [lambda b: b[:5000], lambda b: b'', lambda b: b'\x00' * 100, lambda b: b'{}\n' + b[200:]])
def test_a_damaged_index_is_built_again(rows, probes, faiss, tmp_path, damage):
    path = tmp_path / 'gallery.npz'
    first = made(rows, path).search(probes, 0.3)
    kept = tmp_path / 'gallery.npz.index'
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    assert Gallery.load(path).search(probes, 0.3) == first
    assert len(kept.read_bytes()) == len(whole)


def test_a_place_that_cannot_be_written(rows, probes, faiss, tmp_path, caplog, monkeypatch):
    path = tmp_path / 'gallery.npz'
    gallery = made(rows, path)
    monkeypatch.setattr(os, 'replace', lambda *args: (_ for _ in ()).throw(OSError('read-only')))
    with caplog.at_level(logging.WARNING):
        assert len(gallery.search(probes, 0.3)) == 200
    assert 'built at every start' in caplog.text and list(tmp_path.iterdir()) == [path]
