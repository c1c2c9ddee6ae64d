"""Verification: the same numbers as InsightFace's arithmetic, the same for every kind of set and runtime."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest

import zoo
from plugins.data.sources import MemoryFaces, SubsetFaces, read_faces
from plugins.data.verification import read_bin, write_bin
from plugins.preprocess import FaceError, Preprocess, encode_image, l2_normalise
from zoo.cli import main
from zoo.evaluate.embed import embed_faces
from zoo.evaluate.lowres import degrade_set, verify_lowres
from zoo.evaluate.verification import VerificationSet, evaluate_pairs, load_verification_set, threshold_at, verify
from zoo.export.onnx import export_onnx


def insightface_accuracy(first, second, same, folds=10):
    """``calculate_roc`` of arcface_torch/eval/verification.py, restated literally."""
    distance = np.sum(np.square(np.subtract(first, second)), 1)
    thresholds = np.arange(0, 4, 0.01)
    accuracies = []
    indices = np.arange(len(same))
    for test in np.array_split(indices, folds):
        train = np.setdiff1d(indices, test)
        scores = [np.mean(np.less(distance[train], t) == same[train]) for t in thresholds]
        best = thresholds[np.argmax(scores)]
        accuracies.append(np.mean(np.less(distance[test], best) == same[test]))
    return np.mean(accuracies), np.std(accuracies)


@pytest.mark.parametrize(('pairs', 'noise', 'seed'), [(600, 0.5, 0), (603, 1.0, 1), (1000, 2.0, 2), (97, 0.1, 3)])
def test_equals_insightface(pairs, noise, seed):
    rng = np.random.default_rng(seed)
    first = rng.standard_normal((pairs, 32))
    same = rng.random(pairs) < 0.5
    second = np.where(same[:, None], first + noise * rng.standard_normal((pairs, 32)), rng.standard_normal((pairs, 32)))
    first, second = l2_normalise(first), l2_normalise(second)
    found = evaluate_pairs(first, second, same)
    assert (found.accuracy, found.std) == pytest.approx(insightface_accuracy(first, second, same), abs=1e-12)


def test_another_nets_thresholds_are_kept():
    """Its own thresholds adapt to an embedder that squeezes all similarities; those of a reference do not."""
    rng = np.random.default_rng(0)
    same = np.arange(200) % 2 == 0
    first = rng.standard_normal((200, 32))
    second = np.where(same[:, None], first + rng.standard_normal((200, 32)), rng.standard_normal((200, 32)))
    first, second = l2_normalise(first), l2_normalise(second)
    reference = evaluate_pairs(first, second, same)
    again = evaluate_pairs(first, second, same, reference=reference)
    assert (again.at_reference, again.to_dict()['accuracy@reference']) == (reference.accuracy,) * 2
    assert 'accuracy@reference' not in reference.to_dict()
    squeezed = [l2_normalise(np.concatenate([side, np.full((200, 1), 1.5)], 1)) for side in (first, second)]
    found = evaluate_pairs(*squeezed, same, reference=reference)
    assert found.accuracy > 0.9 and found.at_reference == 0.5  # accepts everybody


def test_threshold_keeps_its_promise():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=3000)
    for far in (1e-1, 1e-2, 1e-3, 1e-4):
        threshold = threshold_at(scores, far)
        accepted = (scores > threshold).mean()
        assert accepted <= far
        assert (scores >= threshold).mean() > far  # and no looser one would
    assert threshold_at(np.array([0.1, 0.2]), 1e-4) == 0.2
    assert threshold_at(np.arange(100.0), 0.29) == 70  # 0.29 * 100 is less than 29 in floating point


def test_tar_and_thresholds_by_hand():
    """Ten strangers, of whom none, one and two are let in; a genuine pair as alike as the stranger at the threshold is not."""
    strangers = [0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.0, -0.1, -0.2, -0.3]
    cosine = np.array([*strangers, 0.95, 0.8, 0.7, 0.6, 0.5, 0.4])
    first, second = np.tile([1.0, 0.0], (16, 1)), np.stack([cosine, np.sqrt(1 - cosine ** 2)], 1)
    found = evaluate_pairs(first, second, np.arange(16) >= 10, fars=('1e-4', '1e-1', '2e-1'), xnorm=3.5)
    assert found.threshold == pytest.approx({'1e-4': 0.9, '1e-1': 0.7, '2e-1': 0.5})
    assert found.tar == pytest.approx({'1e-4': 1 / 6, '1e-1': 2 / 6, '2e-1': 4 / 6})
    assert (found.pairs, found.impostors, found.xnorm) == (16, 10, 3.5)
    flat = found.to_dict()
    assert (flat['tar@2e-1'], flat['threshold@2e-1']) == (found.tar['2e-1'], found.threshold['2e-1'])


def test_decisions_are_those_that_the_accuracy_counts():
    """Twenty pairs that any threshold between 0 and 2 tells apart, but for one: a stranger like a twin."""
    same = np.arange(20) % 2 == 0
    first, second = np.tile([1.0, 0.0], (20, 1)), np.where(same[:, None], [1.0, 0.0], [0.0, 1.0])
    second[7] = [1.0, 0.0]
    found = evaluate_pairs(first, second, same)
    assert found.correct.tolist() == [number != 7 for number in range(20)] and found.accuracy == pytest.approx(0.95)
    assert all(0 < threshold <= 2 for threshold in found.fold_thresholds)


def test_norms_are_those_of_single_embeddings():
    """Means over the images of all pairs, of the face and of its mirror image, before they are added."""
    class Brightness(PixelEmbedder):
        def __call__(self, faces):
            grey = faces.mean((1, 2, 3))
            return (grey[:, None] * (grey[:, None] == [40, 80, 160])).astype(np.float32)

    faces = MemoryFaces([encode_image(np.full((112, 112, 3), grey, np.uint8), '.png') for grey in (40, 80, 160)], 'greys')
    pairs = np.array([[0, 0]] * 5 + [[0, 1]] * 4 + [[1, 2]])
    data = VerificationSet('greys', faces, pairs, pairs[:, 0] == pairs[:, 1])
    for flip in (True, False):
        assert verify(Brightness(), data, flip=flip).xnorm == pytest.approx((14 * 40 + 5 * 80 + 160) / 20)


class PixelEmbedder:
    """Eight by eight grey thumbnails: weak, but it tells persons apart and needs no weights."""

    name, preprocess, num_features = 'pixels', Preprocess(), 64

    def __call__(self, faces):
        grey = self.preprocess(faces).mean(1)
        return grey.reshape(len(grey), 8, 14, 8, 14).mean((2, 4)).reshape(len(grey), -1).astype(np.float32)


def test_bin_folder_and_zip_agree(face_bin, tmp_path):
    images, same = read_bin(face_bin)
    names, lines = {}, []
    for pair, is_same in enumerate(same):
        if is_same:  # a person a pair, two pictures
            for number in (1, 2):
                names[f'g{pair}/g{pair}_{number:04d}.jpg'] = images[2 * pair + number - 1]
            lines.append(f'g{pair}\t1\t2')
        else:
            for side, person in enumerate((f'a{pair}', f'b{pair}')):
                names[f'{person}/{person}_0001.jpg'] = images[2 * pair + side]
            lines.append(f'a{pair}\t1\tb{pair}\t1')
    with zipfile.ZipFile(tmp_path / 'set.zip', 'w') as archive:
        for name, data in names.items():
            archive.writestr(f'lfw/{name}', data)
            path = tmp_path / 'set' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        archive.writestr('pairs.txt', '\n'.join(lines))
    (tmp_path / 'set' / 'pairs.txt').write_text('\n'.join(lines))
    results = [verify(PixelEmbedder(), path) for path in (face_bin, tmp_path / 'set.zip', tmp_path / 'set')]
    for result in results[1:]:
        assert result.to_dict() == pytest.approx(results[0].to_dict())
    assert 0.5 < results[0].accuracy <= 1
    pairs = tmp_path / 'set' / 'pairs.txt'
    pairs.write_text('\n'.join(lines), 'utf-8-sig')  # as Windows' editor saves it
    assert verify(PixelEmbedder(), tmp_path / 'set').to_dict() == results[2].to_dict()
    pairs.write_bytes('\n'.join([*lines, 'Zoë\t1\t2']).encode('latin-1'))
    with pytest.raises(FaceError, match=r'pairs\.txt: not UTF-8'):
        load_verification_set(tmp_path / 'set')
    pairs.write_text('\n'.join(lines))
    double, again = next(iter(names)), tmp_path / 'set' / 'blurred' / next(iter(names))
    again.parent.mkdir(parents=True)
    again.write_bytes(names[double])
    with pytest.raises(FaceError, match=rf'blurred/{double} and {double} are both|{double} and blurred/{double} are both'):
        load_verification_set(tmp_path / 'set')


def test_pairs_beside_a_bin_are_refused(face_bin):
    """It has its own, and was measured on these."""
    with pytest.raises(FaceError, match=r'six\.bin has its own pairs; leave out mine\.txt'):
        load_verification_set(face_bin, 'mine.txt')


def test_flip_and_batch_size(face_bin):
    one = verify(PixelEmbedder(), face_bin, batch_size=1).to_dict()
    assert verify(PixelEmbedder(), face_bin, batch_size=64).to_dict() == pytest.approx(one)
    assert verify(PixelEmbedder(), face_bin, flip=False).to_dict() != pytest.approx(one)


def test_broken_embedders_are_refused(face_bin):
    class Constant(PixelEmbedder):
        def __call__(self, faces):
            return np.ones((len(faces), 4), np.float32)

    class Infinite(PixelEmbedder):
        def __call__(self, faces):
            return np.full((len(faces), 4), np.nan, np.float32)

    with pytest.raises(FaceError, match='same embedding'):
        verify(Constant(), face_bin)
    with pytest.raises(FaceError, match='not finite'):
        verify(Infinite(), face_bin)
    _, norms = embed_faces(Constant(), SubsetFaces(load_verification_set(face_bin).faces, np.array([0])))
    assert norms.tolist() == [[2, 2]], 'of a single face there is no telling'


def test_too_few_or_one_sided_pairs(face_bin, tmp_path):
    images, same = read_bin(face_bin)
    write_bin(tmp_path / 'few.bin', images[:8], same[:4])
    with pytest.raises(FaceError, match='4 pairs'):
        verify(PixelEmbedder(), tmp_path / 'few.bin')
    data = load_verification_set(face_bin)
    with pytest.raises(FaceError, match='of both kinds'):
        verify(PixelEmbedder(), VerificationSet('x', data.faces, data.pairs, np.ones(40, bool)))
    with pytest.raises(FileNotFoundError, match=r'no pairs\.txt'):
        (tmp_path / 'p').mkdir()
        (tmp_path / 'p' / 'x.jpg').write_bytes(images[0])
        load_verification_set(tmp_path)


def test_public_recogniser_has_its_accuracy(shared, lfw_fold):
    """EdgeFace-XXS through our reader and evaluator, as InsightFace would count it."""
    result = verify(zoo.open(shared / 'data' / 'teachers' / 'edgeface_xxs.onnx', threads=1), lfw_fold, flip=False)
    assert result.accuracy > 0.98


def test_eval_command(face_bin, tmp_path, capsys):
    export_onnx(zoo.create('fdfacenet', width=0.25, num_features=32).eval(), tmp_path / 'm.onnx')
    capsys.readouterr()
    assert main(['eval', str(tmp_path / 'm.onnx'), '--set', str(face_bin), '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['pairs'] == 40 and {'accuracy', 'std', 'tar@1e-3', 'threshold@1e-3', 'xnorm'} <= set(found)
    assert main(['eval', str(tmp_path / 'missing.onnx'), '--set', str(face_bin)]) == 1
    assert 'missing.onnx: no such ONNX file' in capsys.readouterr().err


def test_low_resolution(face_bin):
    data = load_verification_set(face_bin)
    plain = verify(PixelEmbedder(), data).to_dict()
    results = verify_lowres(PixelEmbedder(), data, factors=(1, 8))
    assert results[1].to_dict() == pytest.approx(plain)
    assert results[8].to_dict() != pytest.approx(plain)
    assert verify_lowres(PixelEmbedder(), data, factors=(8,), sigma=6.0)[8].to_dict() != pytest.approx(results[8].to_dict())
    one, both = degrade_set(data, 4, both=False), degrade_set(data, 4)
    assert len(one.faces) > len(both.faces)  # clear and degraded versions of the same images
    clear, poor = (read_faces(one.faces, one.pairs[:, side], 112).astype(int) for side in (0, 1))
    originals = [read_faces(data.faces, data.pairs[:, side], 112) for side in (0, 1)]
    assert (clear == originals[0]).all() and (poor != originals[1]).any((1, 2, 3)).all()


def test_low_resolution_command(face_bin, tmp_path, capsys, monkeypatch):
    export_onnx(zoo.create('fdfacenet', width=0.25, num_features=32).eval(), tmp_path / 'm.onnx')
    assert main(['eval', str(tmp_path / 'm.onnx'), '--set', str(face_bin), '--lowres', 'one', '--plot', str(tmp_path / 'p.png'),
                 '--json']) == 0
    assert set(json.loads(capsys.readouterr().out)['results']) == {'x1', 'x2', 'x4', 'x8'}
    assert (tmp_path / 'p.png').stat().st_size > 5000
    monkeypatch.setattr('zoo.evaluate.lowres.verify_lowres', lambda *_, **__: {
        1: evaluate_pairs(np.eye(20), np.eye(20)[::-1], np.arange(20) % 2)})
    assert main(['eval', str(tmp_path / 'm.onnx'), '--set', str(face_bin), '--lowres', '--plot',
                 str(tmp_path / 'm.onnx' / 'p.png')]) == 1
    assert 'accuracy %' in capsys.readouterr().out  # what was measured is said though it cannot be drawn
