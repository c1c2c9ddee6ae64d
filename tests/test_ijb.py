"""IJB evaluation against InsightFace's arithmetic, restated literally, on a small tree in the real format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from plugins.preprocess import FaceError, Preprocess
from tests.conftest import benchmark
from zoo.cli import main
from zoo.evaluate import ijb
from zoo.evaluate.ijb import TemplateSums, evaluate_ijb, load_protocol, score_pairs
from zoo.evaluate.roc import roc_points, tar_nearest

bench = benchmark('arcface_torch')


class PatchEmbedder:
    """Means of patches: quick, differs between faces and between a face and its mirror image."""

    name, preprocess, num_features = 'patches', Preprocess(), 48

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        small = np.stack([cv2.resize(face, (4, 4), interpolation=cv2.INTER_AREA) for face in faces])
        return (small.reshape(len(faces), -1) - 127.5).astype(np.float32)


@pytest.fixture(scope='module')
def tree(face_folder, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('ijb') / 'IJBC'
    bench.write_ijb(root, face_folder)
    return root


def as_insightface(protocol, embedder) -> np.ndarray:
    """Scores as ``eval_ijbc.py`` computes them: all embeddings at once, template by template, medium by medium."""
    crops = np.concatenate(list(ijb._crops(protocol, embedder.preprocess.input_size, 7)))
    assert np.ptp(embedder(crops), axis=0).max() > 10
    features = (embedder(crops) + embedder(crops[:, :, ::-1])) * protocol.scores[:, None]
    templates = np.zeros((len(protocol.templates), features.shape[1]))
    for number in range(len(templates)):
        own = protocol.template == number
        media = [features[own & (protocol.medium == medium)].mean(0) for medium in np.unique(protocol.medium[own])]
        templates[number] = np.sum(media, 0)
    templates /= np.linalg.norm(templates, axis=1, keepdims=True)
    return (templates[protocol.pairs[:, 0]] * templates[protocol.pairs[:, 1]]).sum(1)


@pytest.mark.parametrize('batch', [5, 64])
def test_scores_are_insightfaces(tree, batch):
    protocol = load_protocol(tree)
    assert (len(protocol.images), len(protocol.templates), len(protocol.pairs)) == (48, 12, 66)
    assert max(np.bincount(protocol.medium)) > 1  # some media hold several images, or nothing is averaged
    result, scores = evaluate_ijb(PatchEmbedder(), protocol, batch)
    assert np.allclose(scores, as_insightface(protocol, PatchEmbedder()), atol=1e-6) and np.ptp(scores) > 0.05
    assert result.genuine == 6 and result.pairs == 66


def test_tar_is_read_off_the_curve(tree):
    protocol = load_protocol(tree)
    protocol = replace(protocol, same=np.roll(protocol.same, 1))  # as they are, these faces are told apart without an error
    result, scores = evaluate_ijb(PatchEmbedder(), protocol)
    points = roc_points(scores, protocol.same)
    assert result.tar == {far: tar_nearest(*points, float(far)) for far in ijb.FARS} and len(set(result.tar.values())) > 1
    assert result.to_dict()['tar@1e-1'] == result.tar['1e-1']


def test_figures_are_said_where_the_scores_cannot_be_written(tree, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('zoo.runtime.open_embedder', lambda *options: PatchEmbedder())
    (tmp_path / 'file').touch()
    assert main(['ijb', 'patches', '--root', str(tree), '--scores', str(tmp_path / 'file' / 'scores.npy')]) == 1
    said = capsys.readouterr()
    assert '1e-4' in said.out and 'file' in said.err
    assert main(['ijb', 'patches', '--root', str(tree), '--scores', str(tmp_path / 'scores.npy'), '--json']) == 0
    assert len(np.load(tmp_path / 'scores.npy')) == json.loads(capsys.readouterr().out)['pairs']


def test_each_weight_counts(tree):
    """Flip, detector score and medium pooling all change the scores."""
    protocol = load_protocol(tree)
    _, scores = evaluate_ijb(PatchEmbedder(), protocol)
    changed = (evaluate_ijb(PatchEmbedder(), protocol, flip=False)[1],
               evaluate_ijb(PatchEmbedder(), replace(protocol, scores=np.ones_like(protocol.scores)))[1],
               evaluate_ijb(PatchEmbedder(), replace(protocol, medium=np.arange(len(protocol.medium))))[1])
    assert all(np.abs(other - scores).max() > 1e-4 for other in changed)


def test_sums_do_not_depend_on_batches(tree):
    protocol, rng = load_protocol(tree), np.random.default_rng(0)
    embeddings = rng.normal(size=(48, 16))
    whole, parts = TemplateSums(protocol), TemplateSums(protocol)
    whole.add(embeddings)
    for at in range(0, 48, 5):
        parts.add(embeddings[at:at + 5])
    assert np.allclose(whole.features(), parts.features(), atol=1e-12)


def test_score_pairs_in_any_order():
    rng = np.random.default_rng(0)
    features, pairs = rng.normal(size=(300, 8)), rng.integers(300, size=(5000, 2))
    assert np.allclose(score_pairs(features, pairs), (features[pairs[:, 0]] * features[pairs[:, 1]]).sum(1), atol=1e-12)


@pytest.mark.parametrize('ties', [False, True])
def test_roc_is_scikit_learns(ties):
    metrics = pytest.importorskip('sklearn.metrics', reason='compares with scikit-learn, which is not installed')
    rng = np.random.default_rng(0)
    same = rng.random(4000) < 0.1
    scores = rng.normal(size=4000) + same
    scores = scores.round(1) if ties else scores
    fpr, tpr, _ = metrics.roc_curve(same, scores)
    ours = roc_points(scores, same)
    assert np.allclose(ours[0], fpr) and np.allclose(ours[1], tpr)
    for far in (1e-6, 1e-3, 1e-1):
        falling = np.flipud(fpr)
        assert tar_nearest(*ours, far) == np.flipud(tpr)[min(zip(abs(falling - far), range(len(fpr)), strict=True))[1]]


def test_roc_and_tar_by_hand():
    """Points in the middle of a straight run are left out; of those at one FAR the highest counts."""
    fpr, tpr = roc_points(np.array([0.4, 0.9, 0.6, 0.8, 0.7, 0.5]), np.array([0, 1, 1, 0, 1, 0]))
    assert fpr == pytest.approx([0, 0, 1 / 3, 1 / 3, 1]) and tpr == pytest.approx([0, 1 / 3, 1 / 3, 1, 1])
    assert [tar_nearest(fpr, tpr, far) for far in (1e-6, 0.1, 0.3, 0.5, 0.9)] == pytest.approx([1 / 3, 1 / 3, 1, 1, 1])
    fpr, tpr = roc_points(np.array([0.5, 0.5, 0.5, 0.2]), np.array([1, 0, 1, 0]))  # equal scores are one point
    assert fpr == pytest.approx([0, 0.5, 1]) and tpr == pytest.approx([0, 1, 1])


class TestBadLists:
    @pytest.fixture
    def copy(self, tree, tmp_path) -> Path:
        (tmp_path / 'meta').mkdir()
        for path in (tree / 'meta').iterdir():
            (tmp_path / 'meta' / path.name).write_bytes(path.read_bytes())
        return tmp_path

    @pytest.mark.parametrize(('name', 'old', 'new', 'message'), [
        ('face_tid_mid', '2.jpg', '3.jpg', 'name different images from line 2 on'),
        ('face_tid_mid', '1.jpg 1', '1.jpg x', 'line 1'),
        ('name_5pts_score', '1.jpg ', '1.jpg 7 ', 'expected a name and 11 numbers'),
        ('template_pair_label', '1 2 1', '1 999 1', r'line 1: \[1, 999, 1\]: a template without images'),
        ('template_pair_label', '1 2 1', '1 2 5', 'neither 0 nor 1'), ('template_pair_label', '1 2 1', '1 2', 'cut short')])
    def test_named(self, copy, name, old, new, message):
        path = copy / 'meta' / f'ijbc_{name}.txt'
        path.write_text(path.read_text().replace(old, new, 1))
        with pytest.raises(FaceError, match=message):
            load_protocol(copy)

    def test_missing_list_and_missing_image(self, copy):
        with pytest.raises(FaceError, match=r'1\.jpg: no such image'):
            evaluate_ijb(PatchEmbedder(), load_protocol(copy))
        (copy / 'meta' / 'ijbc_face_tid_mid.txt').unlink()
        with pytest.raises(FileNotFoundError, match='ijbc_face_tid_mid'):
            load_protocol(copy)

    def test_one_kind_of_pair(self):
        with pytest.raises(ValueError, match='needs both kinds'):
            roc_points(np.arange(3.0), np.ones(3, bool))
