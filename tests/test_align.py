"""The one alignment by hand, and ``facezoo data align``: pictures of persons to aligned crops, with the detectors that
everything else uses."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest

from plugins.data.sources import MemoryFaces, TreeFaces
from plugins.faces import Faces
from plugins.preprocess import FaceError, decode_image, encode_image
from zoo.cli import main
from zoo.evaluate.chain import align_set
from zoo.evaluate.verification import VerificationSet
from zoo.jetson.align import TEMPLATE, align, map_points, similarity_transform, template
from zoo.pipeline.sample import sample_landmarks


def turned(points: np.ndarray, degrees: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    angle = np.radians(degrees)
    return scale * points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + shift


def umeyama(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Umeyama 1991, eqs. 38 to 43, with its singular value decomposition."""
    a, b = points - points.mean(0), target - target.mean(0)
    left, values, right = np.linalg.svd(b.T @ a / len(a))
    sign = np.array([1, np.sign(np.linalg.det(left @ right))])
    linear = (values * sign).sum() / a.var(0).sum() * left @ np.diag(sign) @ right
    return np.hstack([linear, (target.mean(0) - linear @ points.mean(0))[:, None]])


@pytest.mark.parametrize(('size', 'factor', 'right'), [(112, 1, 0), (96, 96 / 112, 0), (224, 2, 0), (128, 1, 8), (256, 2, 8)])
def test_templates_are_those_of_insightface(size, factor, right):
    """``arcface_dst`` and ``estimate_norm`` of its ``face_align.py``."""
    points = [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
    np.testing.assert_allclose(template(size), factor * (np.array(points) + np.array([right, 0])), atol=1e-4)


def test_sizes_without_a_template():
    for size in (0, -112, 100, 192):
        with pytest.raises(ValueError, match=f'no alignment template for {size}-pixel crops'):
            template(size)


def test_similarity_is_umeyamas():
    rng, target = np.random.default_rng(0), TEMPLATE.astype(np.float64)
    exact = turned(target, 25, 2.5, (300, 40))
    assert map_points(exact[None])[0] == pytest.approx(target, abs=1e-4)
    for points in (exact, exact + rng.normal(0, 4, (5, 2)), turned(target, -160, 0.3, (-9, 7)) + rng.normal(0, 1, (5, 2))):
        np.testing.assert_allclose(similarity_transform(points, target), umeyama(points, target), atol=1e-9)
    for wrong in (np.full((5, 2), 3.0), np.full((5, 2), np.nan)):
        with pytest.raises(ValueError, match='do not span a face'):
            similarity_transform(wrong, target)


def test_landmarks_come_to_lie_on_the_template():
    """A dot of a colour of its own at each point of a turned face; beyond the picture the crop is black."""
    points = turned(TEMPLATE, 30, 2.0, (120, 60))
    picture = np.full((400, 420, 3), 40, np.uint8)
    colours = np.uint8([[200, 0, 0], [0, 200, 0], [0, 0, 200], [90, 150, 0], [0, 150, 90]])
    for (x, y), colour in zip(points, colours, strict=True):
        cv2.circle(picture, (round(x), round(y)), 5, colour.tolist(), -1)
    crop = align(picture, points[None])[0]
    assert crop.shape == (112, 112, 3) and crop.dtype == np.uint8
    for (x, y), colour in zip(TEMPLATE.round().astype(int), colours, strict=True):
        assert crop[y, x].tolist() == colour.tolist()
    beyond = align(picture, points[None] - (250, 0))[0]
    assert (beyond == 0).all(2).sum() > 2000 and align(picture, np.empty((0, 5, 2))).shape == (0, 112, 112, 3)


@pytest.fixture
def people(picture, tmp_path):
    """Two persons of the group photo, one of them stored lying on its side, a picture without a face, and a damaged one."""
    from PIL import Image
    root = tmp_path / 'people'
    for name in ('ann', 'bob', 'nobody'):
        (root / name).mkdir(parents=True)
    cuts = [picture[y - 150:y + 150, max(0, x - 150):x + 150] for x, y in sample_landmarks()[[2, 3]].mean(1).astype(int)]
    (root / 'ann' / '1.png').write_bytes(encode_image(cuts[0], '.png'))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise for display
    Image.fromarray(np.ascontiguousarray(np.rot90(cuts[1]))).save(root / 'bob' / '1.jpg', quality=95, exif=exif)
    (root / 'nobody' / 'wall.jpg').write_bytes(encode_image(np.full((200, 200, 3), 90, np.uint8)))
    (root / 'nobody' / 'cut.jpg').write_bytes(encode_image(cuts[0])[:2000])
    return root


@pytest.mark.parametrize('bundled', [True, False], ids=['bundled', 'onnx'])
def test_central_faces_are_aligned(people, crops, tmp_path, detector_file, capsys, bundled):
    chosen = [] if bundled else ['--detector', str(detector_file)]
    assert main(['data', 'align', str(people), '--out', str(tmp_path / 'faces'), '--threads', '1', *chosen]) == 0
    assert '2 crops of 112x112; 2 pictures left out' in capsys.readouterr().out
    made = TreeFaces(tmp_path / 'faces')
    assert made.names == ['ann/1.jpg', 'bob/1.jpg']
    for name, known, other in zip(made.names, crops[[2, 3]], crops[[3, 2]], strict=True):
        crop = decode_image(made.read_file(name)).astype(int)
        assert np.abs(crop - known).mean() < 0.5 * np.abs(crop - other).mean()
    rows = list(csv.reader((tmp_path / 'faces' / 'unaligned.csv').read_text().splitlines()))
    assert [row[0] for row in rows[1:]] == ['nobody/cut.jpg', 'nobody/wall.jpg'] and rows[2][1] == 'no face found'
    assert main(['data', 'align', str(people / 'ann'), '--out', str(tmp_path / 'faces'), '--threads', '1', *chosen]) == 0
    assert not (tmp_path / 'faces' / 'unaligned.csv').exists()  # it was of the run before


def test_no_face_at_all_and_no_detector(people, tmp_path, detector_file, recogniser_file, capsys):
    out = ['--out', str(tmp_path / 'faces'), '--threads', '1']
    assert main(['data', 'align', str(people / 'nobody'), *out, '--detector', str(detector_file)]) == 1
    assert 'none of 2 pictures gave a face' in capsys.readouterr().err
    assert main(['data', 'align', str(people), *out, '--detector', str(recogniser_file)]) == 1
    assert 'a detector has 9, 12 or 15' in capsys.readouterr().err
    assert main(['data', 'align', str(people), *out, '--detector', str(detector_file), '--score', '1']) == 1
    assert 'none of 4 pictures' in capsys.readouterr().err


def test_the_whole_chain_is_evaluated(picture, recogniser_file, detector_file, tmp_path, capsys):
    """Unaligned cuts of six persons, each beside a darker one of itself; one stranger is a wall. Without a detector they are
    refused; with one all is told right, and the wall is counted."""
    from plugins.data.verification import write_bin
    cuts = [picture[max(0, y - 125):y + 125, max(0, x - 125):x + 125] for x, y in sample_landmarks().mean(1).astype(int)]
    wall = np.full((250, 250, 3), 90, np.uint8)
    pairs = [(cut, (share * cut).astype(np.uint8)) for share in (0.7, 0.9) for cut in cuts]
    strangers = [(cuts[first], cuts[(first + step) % 6]) for step in (1, 2) for first in range(6)]
    strangers[5] = (cuts[5], wall)
    write_bin(tmp_path / 'raw.bin', [encode_image(image) for pair in (*pairs, *strangers) for image in pair],
              [True] * 12 + [False] * 12)
    command = ['eval', str(recogniser_file), '--set', str(tmp_path / 'raw.bin'), '--json']
    assert main(command) == 1
    assert 'the model wants aligned 112x112 crops' in capsys.readouterr().err
    assert main([*command, '--detector', str(detector_file)]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert 'no face found in 1 of 19 pictures: raw.bin, image' in said.err.replace(f'{tmp_path}/', '')
    assert found['tar@1e-3'] == 1 and found['without_face'] == 1 and found['pictures'] == 19 and found['score'] == 0.62


def test_a_set_without_faces_or_with_a_damaged_picture():
    def nothing(picture):
        return Faces.from_rows([])
    nothing.name = 'blind'
    wall = encode_image(np.full((50, 50, 3), 90, np.uint8))
    pairs, same = np.array([[0, 1]]), np.ones(1, bool)
    with pytest.raises(FaceError, match='walls: blind found a face in none of 2 pictures'):
        align_set(VerificationSet('walls', MemoryFaces([wall, wall], 'walls'), pairs, same), nothing)
    with pytest.raises(FaceError, match=r'walls, image 1: cut short after 200 bytes'):
        align_set(VerificationSet('walls', MemoryFaces([wall, wall[:200]], 'walls'), pairs, same), nothing)


@pytest.mark.parametrize('place', [0, 1000, 32_000, 39_800, 39_960])
@pytest.mark.parametrize('upright', [False, True])
def test_faces_of_a_picture_that_opencv_4_cannot_warp(place, upright, monkeypatch):
    """Turned ones in the middle and at the borders of a strip, next to the same pixels in a picture of usual size."""
    warp = cv2.warpAffine

    def as_before_5(image, *args, **options):
        assert max(image.shape[:2]) < 32767
        return warp(image, *args, **options)
    strip = np.zeros((300, 40_000, 3), np.uint8)
    strip[:, :, 0], strip[:, :, 1] = np.arange(40_000) % 251, np.arange(300)[:, None] % 241
    points = (sample_landmarks()[0] - sample_landmarks()[0].mean(0)) @ np.array([[0.8, 0.6], [-0.6, 0.8]]) + (place + 20, 140)
    left = min(max(0, place - 500), 39_000)
    small, moved = strip[:, left:left + 1000], points - (left, 0)
    if upright:
        strip, small, points, moved = strip.transpose(1, 0, 2), small.transpose(1, 0, 2), points[:, ::-1], moved[:, ::-1]
    expected = align(np.ascontiguousarray(small), moved[None])
    monkeypatch.setattr(cv2, 'warpAffine', as_before_5)
    found = align(np.ascontiguousarray(strip), points[None])
    assert np.abs(found.astype(int) - expected).max() <= 2 and expected.any()
