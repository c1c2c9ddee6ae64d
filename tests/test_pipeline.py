"""From pictures to names: detection, embedding, quality gate, thresholds, drawing, with real faces and real runtimes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plugins.faces import Faces
from plugins.preprocess import FaceError
from tests.conftest import encode
from zoo.pipeline import lettering
from zoo.pipeline.draw import KNOWN, contact_sheet, draw_scene
from zoo.pipeline.gallery import Gallery, Match
from zoo.pipeline.quality import Quality, QualityGate, assess
from zoo.pipeline.recogniser import Face, Pipeline, Scene, recognise
from zoo.pipeline.threshold import threshold_of
from zoo.runtime import open_embedder


def test_six_faces_with_unit_embeddings(pipeline, picture, crops):
    faces = pipeline(picture).faces
    assert len(faces) == 6
    table = np.stack([face.embedding for face in sorted(faces, key=lambda f: f.box[0])])
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1, atol=1e-5)
    known = pipeline.embed_crops(crops)  # aligned by the landmarks that are known of the photo
    order = known @ table.T
    assert order.argmax(1).tolist() == list(range(6)) and np.diag(order).min() > 0.6
    assert np.abs(table @ table.T - np.eye(6)).max() < 0.999
    assert all(len(f'{side:.12g}'.partition('.')[2]) <= 1 for face in faces for side in face.to_dict()['box'])


@pytest.mark.parametrize('shape', [(1, 1), (1, 500), (33, 31), (3000, 12000)])
def test_pictures_of_any_size(pipeline, shape):
    scene = pipeline(np.full((*shape, 3), 90, np.uint8))
    assert scene.faces == () and scene.picture.shape == (*shape, 3)


def test_batch_goes_on_after_a_bad_picture(pipeline, picture, tmp_path):
    good, bad = tmp_path / 'good.jpg', tmp_path / 'bad.jpg'
    good.write_bytes(encode(picture))
    bad.write_bytes(b'\xff\xd8 broken')
    first, second, third = pipeline.stream([good, bad, good])
    assert len(first.faces) == len(third.faces) == 6
    assert second.error and 'bad.jpg' in second.error and second.to_dict() == {'picture': str(bad), 'error': second.error}
    np.testing.assert_allclose(first.faces[0].embedding, third.faces[0].embedding, atol=1e-5)


def test_pictures_side_by_side_come_in_order(pipeline, picture, people):
    """Small and large pictures take turns, so that a later one is ready earlier; each is what it is by itself."""
    small = sorted(people.rglob('a.png'))[:3]
    sources = [picture, small[0], picture, small[1], 'missing.jpg', small[2], picture]
    side_by_side = Pipeline(pipeline.detector, pipeline.embedder, workers=3)
    scenes = list(side_by_side.stream(sources))
    assert [scene.source is source for scene, source in zip(scenes, sources, strict=True)] == [True] * 7
    assert [len(scene.faces) for scene in scenes] == [6, 1, 6, 1, 0, 1, 6] and 'missing.jpg' in scenes[4].error
    for scene, source in zip(scenes[:2], sources, strict=False):
        for face, alone in zip(scene.faces, pipeline(source).faces, strict=True):
            np.testing.assert_array_equal(face.embedding, alone.embedding)


def test_a_stream_that_is_left_stops_reading(pipeline, picture):
    read = []
    stream = Pipeline(pipeline.detector, pipeline.embedder, workers=2).stream(read.append(i) or picture for i in range(100))
    next(stream)
    stream.close()
    assert len(read) == 3


def test_batches_give_what_single_faces_give(pipeline, crops):
    single = np.concatenate([pipeline.embed_crops(crops[i:i + 1]) for i in range(len(crops))])
    np.testing.assert_allclose(pipeline.embed_crops(crops), single, atol=1e-4)
    assert pipeline.embed_crops(crops[:0]).shape == (0, 512)


def test_gate_says_why(pipeline, picture):
    strict = Pipeline(pipeline.detector, pipeline.embedder, QualityGate(side=5000))
    scene = strict(picture)
    assert len(scene.faces) == 6 and all('5000' in face.refused and face.embedding is None for face in scene.faces)
    gate = QualityGate(score=0.5, side=10, turn=1, sharpness=5)
    fine = Quality(0.9, 50, 0.1, 100)
    assert gate.reason(fine) is None
    for changes, word in (({'score': 0.1}, 'score'), ({'side': 5.0}, 'small'), ({'turn': 2.0}, 'turned'), ({'sharpness': 1.0},
                                                                                                          'blurred')):
        assert word in gate.reason(Quality(**{**vars(fine), **changes}))


def test_quality_by_hand():
    """A face from the front, one with the nose below the right eye, and that one tilted; a box of 40x20 pixels has sides of
    30."""
    front = np.float32([[10, 10], [30, 10], [20, 20], [12, 30], [28, 30]])
    turned = front + np.float32([[0, 0], [0, 0], [10, 0], [0, 0], [0, 0]])
    points = np.stack([front, turned, turned @ np.float32([[0.8, 0.6], [-0.6, 0.8]])])
    grey, edge = np.full((112, 112, 3), 90, np.uint8), np.zeros((112, 112, 3), np.uint8)
    edge[:, 56:] = 60
    found = assess(Faces(np.float32([[0, 0, 40, 20]] * 3), points, np.float32([0.9, 0.8, 0.7])), np.stack([grey, edge, grey]))
    assert [quality.turn for quality in found] == pytest.approx([0, 1, 1], abs=1e-5)
    assert [(quality.side, round(quality.score, 5)) for quality in found] == [(30, 0.9), (30, 0.8), (30, 0.7)]
    assert [quality.sharpness for quality in found] == pytest.approx([0, 2 * 60 ** 2 / 112, 0])  # two columns, of 60 and -60


def test_everybody_is_recognised(pipeline, gallery, picture):
    scene = recognise(pipeline(picture), gallery, 0.5)
    faces = sorted(scene.faces, key=lambda f: f.box[0])
    assert [face.name for face in faces] == [f'Person {i}' for i in range(6)]
    assert faces[0].to_dict()['nearest'] == 'Person 0'


def test_unknown_is_an_answer(pipeline, gallery, picture, tmp_path):
    gallery.save(tmp_path / 'gallery.npz')
    others = Gallery.load(tmp_path / 'gallery.npz')
    others.remove('Person 2')
    faces = sorted(recognise(pipeline(picture), others, 0.5).faces, key=lambda f: f.box[0])
    assert faces[2].name is None and faces[2].match.name != 'Person 2' and not faces[2].match.known
    assert faces[3].name == 'Person 3'


def test_thresholds_come_from_cards(recogniser_file):
    import zoo
    embedder = open_embedder(recogniser_file, threads=1)
    embedder.sidecar = {'model': 'fdfacenet'}
    if zoo.card('fdfacenet').weights:
        found = [threshold_of(embedder, far) for far in ('1e-3', '1e-4', '1e-5')]
        assert found == sorted(found) and found[0] == zoo.card('fdfacenet').weights['default'].thresholds['1e-3']
    embedder.sidecar, embedder.name = {}, '/somewhere/else.onnx'
    with pytest.raises(ValueError, match='--threshold'):
        threshold_of(embedder)
    embedder.sidecar = {'model': 'nfacenet'}
    with pytest.raises(ValueError, match='no threshold'):
        threshold_of(embedder)


def test_drawing_marks_faces_and_leaves_the_picture(pipeline, gallery, picture):
    scene = recognise(pipeline(picture), gallery, 0.5)
    before = scene.picture.copy()
    drawn = draw_scene(scene)
    assert (scene.picture == before).all() and drawn.shape == picture.shape
    for face in scene.faces:
        x, y = int(face.box[0]), int(face.box[1] + face.box[3]) // 2
        assert np.abs(drawn[y, x - 2:x + 3].astype(int) - KNOWN).sum(1).min() < 40
    sheet = contact_sheet([scene, scene, scene])
    assert sheet.shape[1] == 640 and sheet.std() > 20


@pytest.mark.parametrize('one', ['a.jpg', Path('a.jpg'), b'abc', np.zeros((9, 9, 3), np.uint8)])
def test_a_single_picture_is_no_stream(pipeline, one):
    with pytest.raises(FaceError, match='put the one into a list'):
        pipeline.stream(one)


def test_detectors_take_pictures_only(pipeline, picture):
    """Of numbers between 0 and 1, or with an alpha channel, they found no faces, and said nothing."""
    rgba = np.dstack([picture, picture[..., :1]])
    for wrong, words in ((picture / np.float32(255), 'float32'), (rgba, ', 4'), (picture[..., 0], r'\(886, 1280\)'),
                         ('a.jpg', 'str'), (None, 'NoneType'), (picture[:0], r'\(0, 1280, 3\)')):
        with pytest.raises(FaceError, match=rf'uint8 RGB \(H, W, 3\), got .*{words}'):
            pipeline.detector(wrong)


def green(picture: np.ndarray) -> int:
    """Pixels in the colour of known faces' boxes and plates."""
    return int((np.abs(picture.astype(int) - KNOWN).sum(2) < 10).sum())


def test_on_a_contact_sheet_names_cover_no_faces(picture):
    """Boxes stay; names that are much wider than the face, or would lie over others, do not."""
    def row(name: str, step: int) -> Scene:
        return Scene('', np.zeros_like(picture), tuple(
            Face(np.float32([x, 60, x + 100, 160]), np.zeros((5, 2)), Quality(0.9, 100, 0.0, 9.0), match=Match(name, 0.7, True))
            for x in (20, 20 + step, 20 + 2 * step)))
    apart, close, long = row('Ann Smith', 400), row('Ann Smith', 120), row('Somebody whose name is very long', 400)
    assert green(draw_scene(apart, crowded=True)) == green(draw_scene(apart))
    boxes = green(draw_scene(long, crowded=True))
    assert 0 < boxes < green(draw_scene(close, crowded=True)) < green(draw_scene(close)) and boxes < green(draw_scene(long))


def test_names_in_any_script_can_be_read(monkeypatch):
    """Never as boxes: by a font of the system, or with what the font at hand has."""
    if any(lettering._opened(name, 17) for name in lettering.FONTS[:2]):
        assert not np.array_equal(lettering.letter('Zoë', 17, KNOWN), lettering.letter('Zoe', 17, KNOWN))
    monkeypatch.setattr(lettering, 'FONTS', ())
    lettering._font.cache_clear()
    try:
        assert lettering.readable('José Łuk 中村.jpg') == 'Jose ?uk ??.jpg'
        same = [lettering.letter(text, 17, KNOWN) for text in ('José', 'Jose', '中村', '??')]
        assert np.array_equal(*same[:2]) and np.array_equal(*same[2:])
        wide = lettering.letter('a very long name of a file.jpg', 17, KNOWN, width=120)
        assert 100 < wide.shape[1] <= 120
        assert lettering.letter('bad\udcff\n', 17, KNOWN).shape == lettering.letter('bad??', 17, KNOWN).shape
    finally:
        lettering._font.cache_clear()


def test_a_threshold_is_said_to_be_of_the_model_not_of_its_folder():
    from argparse import Namespace

    from zoo.commands.recognition import stated_threshold
    thresholds = {'1e-3': 0.25}
    embedder = Namespace(name='build/ncnn', sidecar={'model': 'fdfacenet', 'thresholds': thresholds})
    assert stated_threshold(Namespace(threshold=None, far='1e-3'), embedder) == (
        0.25, 'similarity 0.2500, FAR 1e-3 of the card of fdfacenet')
