"""From pictures to names: reading, quality gate, pipeline, gallery, enrolment, drawing, with real faces and real runtimes."""

from __future__ import annotations

import io
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from plugins.preprocess import FaceError, encode_image
from tests.conftest import ROOT, encode
from zoo.cli import main
from zoo.pipeline.contract import Contract, ContractError, contract_of, patterns
from zoo.pipeline.draw import KNOWN, contact_sheet, draw_scene
from zoo.pipeline.enrol import enrol_folder
from zoo.pipeline.galleries import open_gallery
from zoo.pipeline.gallery import Gallery, GalleryError
from zoo.pipeline.pictures import find_pictures, read_picture
from zoo.pipeline.quality import Quality, QualityGate
from zoo.pipeline.recogniser import Pipeline, recognise
from zoo.pipeline.threshold import threshold_of
from zoo.runtime import open_embedder


@pytest.fixture(scope='module')
def gallery(pipeline, people):
    made = Gallery(pipeline.contract())
    enrol_folder(pipeline, made, people)
    return made


def contract() -> Contract:
    return Contract('net', {'mean': 127.5}, True, np.eye(3, 4, dtype=np.float32))


# reading pictures

@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'L', 'CMYK', 'P', '1'])
def test_colour_modes(mode, tmp_path):
    image = Image.new('RGB', (40, 30), (200, 100, 50)).convert(mode)
    path = tmp_path / ('a.jpg' if mode == 'CMYK' else 'a.png')
    image.save(path)
    array = read_picture(path)
    assert array.shape == (30, 40, 3) and array.dtype == np.uint8
    if mode in ('RGB', 'RGBA', 'CMYK'):
        np.testing.assert_allclose(array[5, 5].astype(int), (200, 100, 50), atol=12)


def test_sixteen_bits_become_eight():
    deep = np.full((9, 9), 40000, np.uint16)
    assert read_picture(cv2.imencode('.png', deep)[1].tobytes())[0, 0, 0] == 40000 >> 8


def test_exif_orientation_is_honoured(tmp_path):
    image = Image.fromarray(np.dstack([np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (32, 1))] * 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    for suffix in ('jpg', 'png', 'webp'):
        image.save(tmp_path / f'a.{suffix}', exif=exif, quality=95)
        turned = read_picture(tmp_path / f'a.{suffix}')
        assert turned.shape == (64, 32, 3), suffix
        assert turned[0].mean() < 20 and turned[-1].mean() > 235, suffix


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new('RGB', (20, 20), colour) for colour in ('red', 'blue')]
    for suffix in ('gif', 'webp'):
        frames[0].save(tmp_path / f'a.{suffix}', save_all=True, append_images=frames[1:])
        assert read_picture(tmp_path / f'a.{suffix}')[10, 10, 0] > 200


@pytest.mark.parametrize(('data', 'message'), [(b'', 'empty'), (b'no picture at all', 'not an image')])
def test_damaged_bytes(data, message, tmp_path):
    path = tmp_path / 'a.jpg'
    path.write_bytes(data)
    with pytest.raises(FaceError, match=rf'a\.jpg.*{message}'):
        read_picture(path)


def test_truncated_jpeg_and_png(tmp_path, picture):
    for suffix in ('.jpg', '.png'):
        path = tmp_path / f'cut{suffix}'
        path.write_bytes(encode(picture[:200, :200], suffix)[:-3000])
        with pytest.raises(FaceError, match='cut'):
            read_picture(path)


def test_folders_missing_files_and_odd_arrays(tmp_path):
    with pytest.raises(FaceError, match='is a folder'):
        read_picture(tmp_path)
    with pytest.raises(FaceError, match='No such file'):
        read_picture(tmp_path / 'none.jpg')
    with pytest.raises(FaceError, match='float64'):
        read_picture(np.zeros((4, 4, 3)))
    assert read_picture(np.zeros((4, 5), np.uint8)).shape == (4, 5, 3)
    with pytest.raises(FaceError, match='no pictures'):
        find_pictures([tmp_path])


def test_pictures_of_folders_and_what_is_passed_over(tmp_path):
    for name in ('album/b/1.JPG', 'album/a.png', 'album/phone.heic', 'album/.hidden/x.jpg', 'album/.DS_Store', 'else/2.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    album = tmp_path / 'album'
    (album / 'empty').mkdir()
    (album / 'linked').symlink_to(tmp_path / 'else')
    (album / 'b' / 'back').symlink_to(album)
    (album / 'gone.jpg').symlink_to(tmp_path / 'nowhere.jpg')
    found = find_pictures([album, tmp_path / 'else' / '2.jpg'])
    assert [(str(path.relative_to(tmp_path)), str(below)) for path, below in found.pictures.items()] == [
        ('album/a.png', 'a.png'), ('album/b/1.JPG', 'b/1.JPG'), ('album/linked/2.jpg', 'linked/2.jpg'), ('else/2.jpg', '2.jpg')]
    assert {reason: [str(path.relative_to(album)) for path in paths] for reason, paths in found.passed.items()} == {
        'links to a folder that it lies in': ['b/back'], 'empty folders': ['empty'], 'links to nothing': ['gone.jpg'],
        'no pictures of a kind that is read': ['phone.heic']}


def test_a_bomb_is_refused_by_its_header():
    buffer = io.BytesIO()
    Image.new('1', (20000, 20000)).save(buffer, 'png')
    with pytest.raises(FaceError, match='scale it down'):
        read_picture(buffer.getvalue())


# faces

def test_six_faces_with_unit_embeddings(pipeline, picture, crops):
    faces = pipeline(picture).faces
    assert len(faces) == 6
    table = np.stack([face.embedding for face in sorted(faces, key=lambda f: f.box[0])])
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1, atol=1e-5)
    known = pipeline.embed_crops(crops)  # aligned by the landmarks that are known of the photo
    order = known @ table.T
    assert order.argmax(1).tolist() == list(range(6)) and np.diag(order).min() > 0.6
    assert np.abs(table @ table.T - np.eye(6)).max() < 0.999


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


def test_batches_give_what_single_faces_give(pipeline, crops):
    single = np.concatenate([pipeline.embed_crops(crops[i:i + 1]) for i in range(len(crops))])
    np.testing.assert_allclose(pipeline.embed_crops(crops), single, atol=1e-4)
    assert pipeline.embed_crops(crops[:0]).shape == (0, 512)


def test_gate_says_why(pipeline, picture):
    strict = Pipeline(pipeline.detector, pipeline.embedder, QualityGate(side=5000))
    scene = strict(picture)
    assert all('5000' in face.refused and face.embedding is None for face in scene.faces)
    gate = QualityGate(score=0.5, side=10, turn=1, sharpness=5)
    fine = Quality(0.9, 50, 0.1, 100)
    assert gate.reason(fine) is None
    for changes, word in (({'score': 0.1}, 'score'), ({'side': 5.0}, 'small'), ({'turn': 2.0}, 'turned'), ({'sharpness': 1.0},
                                                                                                          'blurred')):
        assert word in gate.reason(Quality(**{**vars(fine), **changes}))


# galleries

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


def test_round_trip(gallery, tmp_path):
    path = tmp_path / 'gallery.npz'
    gallery.save(path)
    loaded = Gallery.load(path, gallery.contract)
    assert loaded.persons == gallery.persons and len(loaded) == 6
    probes = gallery.templates()[1]
    assert loaded.search(probes, 0.5) == gallery.search(probes, 0.5) and len({m[0].name for m in loaded.search(probes, 0)}) == 6


def test_a_crash_while_saving_loses_nothing(gallery, tmp_path, monkeypatch):
    path = tmp_path / 'gallery.npz'
    gallery.save(path)
    before = path.read_bytes()

    def crash(file, **arrays):
        file.write(b'half a gallery')
        raise OSError('disk full')
    monkeypatch.setattr(np, 'savez', crash)
    with pytest.raises(OSError, match='disk full'):
        gallery.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_kill_while_saving_loses_nothing(gallery, tmp_path):
    """The process dies between the bytes, as it does when the power fails."""
    path = tmp_path / 'gallery.npz'
    gallery.save(path)
    code = ('import sys; from zoo.pipeline.gallery import Gallery\ng = Gallery.load(sys.argv[1])\n'
            'g.add("New", g.templates()[1][:1].repeat(20000, 0), list(map(str, range(20000))))\n'
            'print("now", flush=True)\nwhile True: g.save(sys.argv[1])')
    with subprocess.Popen([sys.executable, '-c', code, str(path)], stdout=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.readline()
        parts = iter(lambda: [*tmp_path.glob('.*.part')], None)
        assert next(found for found in parts if found and found[0].stat().st_size > 10 ** 6)  # in the middle of 40 MB
        process.kill()
    assert set(Gallery.load(path).persons) - {'New'} == set(gallery.persons)


def test_two_programs_do_not_overwrite_each_other(gallery, tmp_path):
    path = tmp_path / 'gallery.npz'
    gallery.save(path)
    with pytest.raises(GalleryError, match='another program'), open_gallery(path, change=True) as mine:
        with open_gallery(path, change=True) as other:
            other.remove('Person 0')
        mine.remove('Person 1')
    assert 'Person 0' not in Gallery.load(path).persons and 'Person 1' in Gallery.load(path).persons


def test_two_programs_that_end_together(tmp_path):
    """Both have looked at the file before either has written it, but for the lock."""
    pytest.importorskip('fcntl', reason='this system has no locks on files')
    path = tmp_path / 'gallery.npz'
    first = Gallery(contract())
    first.add('Ann', np.eye(1, 4), ['1.jpg'])
    first.save(path)
    code = ('import sys, time; import numpy as np; from zoo.pipeline.galleries import open_gallery\n'
            'from zoo.pipeline.gallery import Gallery\n'
            'save = Gallery.save; Gallery.save = lambda *args: (time.sleep(0.5), save(*args))\n'
            'with open_gallery(sys.argv[1], change=True) as gallery:\n'
            '    gallery.add(sys.argv[2], np.eye(1, 4), ["1.jpg"]); print("ready", flush=True); sys.stdin.readline()')
    both = {name: subprocess.Popen([sys.executable, '-c', code, str(path), name], cwd=ROOT, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for name in ('Bob', 'Cid')}
    assert [program.stdout.readline() for program in both.values()] == ['ready\n'] * 2
    for program in both.values():
        program.stdin.write('\n')
        program.stdin.flush()
    said = {name: program.communicate()[1] for name, program in both.items()}
    written = [name for name, words in said.items() if not words]
    assert len(written) == 1 and sum('another program' in words for words in said.values()) == 1, said
    assert [*Gallery.load(path).persons] == ['Ann', *written]


def test_errors_of_galleries_on_the_command_line(gallery, tmp_path, capsys):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'text.npz').write_text('hello')
    gallery.save(tmp_path / 'good.npz')
    for file, options, words in (('none.npz', ['--list'], ['no such gallery', 'facezoo enrol', 'PEOPLE_FOLDER']),
                                 ('folder', ['--list'], ['a folder', 'GALLERY.npz PEOPLE_FOLDER']),
                                 ('text.npz', ['--list'], ['not a whole gallery', 'cut short']),
                                 ('good.npz', ['--remove', 'Person 0', '--remove', 'Zoe'], ["'Zoe'", '--list']),
                                 ('good.npz', ['--remove', 'Persn 0'], ["did you mean 'Person 0'"])):
        assert main(['enrol', str(tmp_path / file), *options]) == 1
        said = capsys.readouterr()
        assert not said.out and said.err.count('\n') == 1 and all(word in said.err for word in words), said.err
    assert len(Gallery.load(tmp_path / 'good.npz')) == 6


@pytest.mark.parametrize('damage', [lambda b: b[:-100], lambda b: b[:50], lambda b: b'', lambda b: b'PK' + b[100:]])
def test_damaged_gallery(gallery, tmp_path, damage):
    path = tmp_path / 'gallery.npz'
    gallery.save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(GalleryError, match='not a whole gallery'):
        Gallery.load(path)


def test_pickles_are_not_executed(tmp_path):
    path = tmp_path / 'evil.npz'
    np.savez(path, facts=np.array([{'a': 1}], object), probe=np.zeros(1), embeddings=np.zeros(1))
    with pytest.raises(GalleryError):
        Gallery.load(path)


def test_another_model_is_refused(gallery, tmp_path):
    path = tmp_path / 'gallery.npz'
    gallery.save(path)
    mine = gallery.contract
    for changes, word in (({'flip': False}, 'flip'), ({'preprocess': {**mine.preprocess, 'colour': 'BGR'}}, 'colour'),
                          ({'probe': np.roll(mine.probe, 1, 1)}, 'test pattern'), ({'probe': mine.probe[:, :128]}, '128')):
        with pytest.raises(ContractError, match=word):
            Gallery.load(path, Contract(**{**vars(mine), **changes}))


def test_eight_bits_of_the_same_weights_are_accepted(recogniser_file, tmp_path):
    """Their answers to the patterns differ more than those of other weights may: the weights' digest decides."""
    import zoo
    from plugins.preprocess import l2_normalise
    from zoo.export.job import Job
    rows = np.eye(3, 8)
    coarse = l2_normalise(rows + 0.35 * np.roll(rows, 3, 1)).astype(np.float32)
    assert 0.9 < (rows * coarse).sum(1).min() < 0.95
    mine = Contract('net', {'mean': 127.5}, True, rows.astype(np.float32), 'abc')
    gallery = Gallery(mine)
    gallery.add('Ann', rows[:1], ['1.jpg'])
    gallery.save(tmp_path / 'g.npz')
    Gallery.load(tmp_path / 'g.npz', Contract('net8', {'mean': 127.5}, True, coarse, 'abc'))
    for weights in ('abd', ''):
        with pytest.raises(ContractError, match='test pattern'):
            Gallery.load(tmp_path / 'g.npz', Contract('net8', {'mean': 127.5}, True, coarse, weights))
    with pytest.raises(ContractError, match='test pattern'):  # something else is wrong
        Gallery.load(tmp_path / 'g.npz', Contract('net8', {'mean': 127.5}, True, np.roll(coarse, 1, 1), 'abc'))
    model = zoo.load('fdfacenet')
    assert Job(model, 'fdfacenet', None).facts['weights'] == contract_of(open_embedder('fdfacenet'), True).weights


def test_contract_tells_models_apart_and_runtimes_not(recogniser_file):
    import zoo
    from zoo.runtime.torch import TorchEmbedder
    onnx = open_embedder(recogniser_file, threads=1)
    torch_net = zoo.load('fdfacenet') if zoo.card('fdfacenet').weights else None
    probe = contract_of(onnx, True)
    assert np.abs(probe.probe @ probe.probe.T - np.eye(3)).max() < 0.99
    if torch_net:
        probe.require(contract_of(TorchEmbedder(torch_net, onnx.preprocess), True), 'a')
    with pytest.raises(ContractError):
        probe.require(contract_of(TorchEmbedder(zoo.create('fdfacenet').eval(), onnx.preprocess), True), 'b')
    assert len(np.unique(patterns(112).reshape(3, -1), axis=0)) == 3


def test_add_replace_remove():
    gallery = Gallery(contract())
    gallery.add('Ann', np.eye(2, 4), ['1.jpg', '2.jpg'])
    gallery.add('Bob', np.eye(4)[3:], ['1.jpg'])
    gallery.add('Ann', np.eye(4)[2:3], ['2.jpg'])  # the same picture again
    assert gallery.persons == {'Ann': ['1.jpg', '2.jpg'], 'Bob': ['1.jpg']}
    match = gallery.search(np.eye(4)[2], 0.5)[0][0]
    assert match.name == 'Ann' and match.score == pytest.approx(2 ** -0.5)
    assert [m.name for m in gallery.search(np.eye(4)[3], 0.5, top=5)[0]] == ['Bob', 'Ann']
    with pytest.raises(GalleryError, match="'Anne'; did you mean 'Ann'"):
        gallery.remove('Bob', 'Anne')
    assert len(gallery) == 2 and gallery.remove('Ann') == [2] and len(gallery) == 1
    with pytest.raises(GalleryError, match="'Ann'"):
        gallery.remove('Ann')
    with pytest.raises(GalleryError, match='zero or not finite'):
        gallery.add('Eve', np.zeros((1, 4)), ['e.jpg'])
    with pytest.raises(GalleryError, match='4 numbers'):
        gallery.add('Eve', np.ones((1, 3)), ['e.jpg'])
    with pytest.raises(GalleryError, match='name'):
        gallery.add(' ', np.ones((1, 4)), ['e.jpg'])
    with pytest.raises(GalleryError, match='Eve: no face'):  # it would get the template of the next person
        gallery.add('Eve', np.ones((0, 4)), [])
    with pytest.raises(GalleryError, match=r"Eve: several faces.*'camera'"):  # all but one would be lost
        gallery.add('Eve', np.eye(3, 4), ['camera', 'door', 'camera'])
    assert gallery.persons == {'Bob': ['1.jpg']}
    assert Gallery(contract()).search(np.eye(4)[:2], 0.5) == [[], []]


def test_a_name_has_one_spelling(tmp_path):
    composed, apart = 'Jos\u00e9', 'Jose\u0301'  # as Linux and as macOS give the folder's name
    gallery = Gallery(contract(), [apart], np.eye(1, 4), ['0.jpg'])
    gallery.add(f' {composed} ', np.eye(4)[1:2], ['1.jpg'])
    gallery.add(apart, np.eye(4)[2:3], ['2.jpg'])
    assert gallery.persons == {composed: ['0.jpg', '1.jpg', '2.jpg']}
    assert gallery.remove(f'{apart}\n') == [3] and not len(gallery)


# thresholds and drawing

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


def test_a_picture_too_large_for_its_format_is_refused():
    with pytest.raises(FaceError, match=r'\.jpg.*65500'):
        encode_image(np.zeros((8, 66000, 3), np.uint8))
    assert encode_image(np.zeros((8, 66000, 3), np.uint8), '.png')


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
