"""A bundle with a detector: pictures to names by the board's scripts, as the desk's pipeline finds them."""

from __future__ import annotations

import json
import shutil
import sys
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import zoo
from plugins.preprocess import decode_image, encode_image
from tests.boards import INTERPRETERS, LOOSE, run_on_board, sign, unpack
from zoo.export import board_detector
from zoo.export.artefact import export
from zoo.export.graph import Graph, GraphError
from zoo.export.lint import LintError
from zoo.export.parity import GateError
from zoo.jetson import recognise
from zoo.jetson.align import align
from zoo.jetson.bundle import BundleError
from zoo.jetson.detector import agrees, compare
from zoo.jetson.pictures import read_picture
from zoo.jetson.recogniser import Recogniser
from zoo.pipeline.sample import sample_image, sample_landmarks
from zoo.runtime.detector import open_detector


@pytest.fixture(scope='session')
def system_tar(detector_file, face_bin, tmp_path_factory) -> Path:
    """A bundle for the Jetson TX2 in FP16: the bundled recogniser and detector."""
    out = tmp_path_factory.mktemp('system') / 'tx2.tar'
    export(zoo.load('fdfacenet'), 'fdfacenet', 'tensorrt', out, face_bin, LOOSE, device='jetson-tx2', detector=detector_file)
    return out


@pytest.fixture
def system(system_tar, tmp_path) -> Path:
    """The unpacked bundle."""
    return unpack(system_tar, tmp_path)


@pytest.fixture(scope='session')
def photo() -> np.ndarray:
    """The sample picture, six faces, uint8 RGB."""
    return decode_image(sample_image().read_bytes(), 'photo')


@pytest.fixture(scope='session')
def wide_crops(photo) -> list[np.ndarray]:
    """A picture around each of its faces, 256 pixels, with the face upright in the middle."""
    return [cv2.copyMakeBorder(crop, 72, 72, 72, 72, cv2.BORDER_REPLICATE) for crop in align(photo, sample_landmarks())]


@pytest.fixture
def people(wide_crops, tmp_path) -> Path:
    """Folders of three of the six persons."""
    for name, crop in zip(('Ada', 'Bo', 'Cleo'), wide_crops, strict=False):
        (tmp_path / 'people' / name).mkdir(parents=True)
        (tmp_path / 'people' / name / '1.png').write_bytes(encode_image(crop, '.png'))
    return tmp_path / 'people'


def test_contents(system_tar, system):
    facts = json.loads((system / 'bundle.json').read_text())['variants']['detector']
    assert facts['shapes'] == [[1, 3, 32, 32], [1, 3, 384, 640], [1, 3, 640, 640]] and facts['flags'] == ['FP16']
    assert facts['score'] == 0.62 and facts['outputs'][0] == 'score_8' and 'CelebA' in facts['licence']
    readme = (system / 'README.md').read_text()
    assert 'python3 recognise.py people a.jpg' in readme and '640x384' in readme and '| `detector.onnx` |' in readme
    report = json.loads(system_tar.with_suffix('.json').read_text())['detector']
    findings = json.loads(system_tar.with_suffix('.json').read_text())['findings']
    assert len({json.dumps(finding) for finding in findings}) == len(findings)
    assert report['simulated'] and report['found'] == report['faces'] == 6
    assert 0.99 < report['min_iou'] < 1 and 0 < report['landmark_error'] < 0.02  # not 1 and 0: 16 bits do round
    facts = json.loads((system / 'bundle.json').read_text())
    card = zoo.card('fdfacenet').weights['default'].thresholds['1e-3']
    assert facts['threshold'] == card and 'too few' in facts['threshold_source'] and f'**{card:.3f}** (the card' in readme
    build = (system / 'build.sh').read_text()
    assert '--maxShapes=image:1x3x640x640' in build and '--maxShapes=image:8x3x112x112' in build


@pytest.mark.parametrize('python', INTERPRETERS)
@pytest.mark.parametrize('version', ['8.2.1.8', '10.3.0'])
def test_verify(python, version, system, cudart):
    done = run_on_board(python, system, cudart, 'verify.py', '--seconds', '0.05', '--out', 'r.json', version=version)
    assert done.returncode == 0, done.stderr
    assert 'detector: passed' in done.stdout and '6 of 6 faces' in done.stdout
    report = json.loads((system / 'r.json').read_text())
    assert set(report['engines']) == {'fp16'} and report['detector']['min_iou'] > 0.99
    assert set(report['detector']['latency_ms']) == {'640x384, with copies', '640x384, without copies'}


def test_an_engine_that_finds_other_faces_fails(system, cudart):
    with np.load(system / 'detector.npz') as sample:
        arrays = dict(sample)
    np.savez(system / 'detector.npz', **{**arrays, 'boxes': arrays['boxes'] + 9})
    sign(system, 'detector.npz')
    done = run_on_board(sys.executable, system, cudart, 'verify.py', 'detector', '--seconds', '0.05')
    assert done.returncode == 1 and 'detector: FAILED' in done.stdout


@pytest.mark.parametrize('python', INTERPRETERS)
def test_names_in_pictures(python, system, cudart, people, photo, detector_file, tmp_path):
    """The board's faces are the desk's, and the three known persons are named."""
    (tmp_path / 'photo.png').write_bytes(encode_image(photo, '.png'))
    (tmp_path / 'empty.png').write_bytes(encode_image(np.zeros((50, 400, 3), np.uint8), '.png'))
    (tmp_path / 'broken.jpg').write_bytes(b'\xff\xd8\xff\xe0 no more')
    pictures = [str(tmp_path / name) for name in ('photo.png', 'empty.png', 'broken.jpg', 'nowhere.jpg')]
    done = run_on_board(python, system, cudart, 'recognise.py', str(people), *pictures)
    assert done.returncode == 1, done.stderr  # two pictures could not be read; the others were
    found, empty, broken, nowhere = map(json.loads, done.stdout.splitlines())
    assert empty['faces'] == [] and 'not an image' in broken['error'] and 'No such file' in nowhere['error']
    expected = open_detector(detector_file, threads=1)(photo)
    got = [np.float32([face[key] for face in found['faces']]) for key in ('box', 'landmarks', 'score')]
    agreement = compare((expected.boxes, expected.landmarks, expected.scores), got)
    assert agreement['faces'] == agreement['found'] == 6 and agreement['min_iou'] > 0.98
    ordered = sorted(found['faces'], key=lambda face: face['box'][0])
    assert [face['name'] for face in ordered] == ['Ada', 'Bo', 'Cleo', None, None, None]
    assert min(face['similarity'] for face in ordered[:3]) > 0.6


def test_more_pixels_than_opencv_takes(tmp_path):
    (tmp_path / 'a.ppm').write_bytes(b'P6 60000 60000 255\n')
    with pytest.raises(BundleError, match=r'a\.ppm: refused by OpenCV \(.*PIXELS'):
        read_picture(tmp_path / 'a.ppm')


def test_who_is_not_enrolled_is_named(people, wide_crops, capsys):
    webp, empty, loose = people / 'Bo' / '1.webp', people / 'Dora', people / 'Eve.jpg'
    webp.write_bytes(encode_image(wide_crops[1], '.webp'))
    (people / 'Bo' / '1.png').write_bytes(b'')
    empty.mkdir()
    loose.write_bytes(b'')
    (people / '.DS_Store').write_bytes(b'')
    known = object.__new__(recognise.System)
    known.size, known.detector = 112, lambda picture: (np.float32([[72, 72, 184, 184]]), 72 + sample_landmarks()[:1], None)
    known.recogniser = lambda crops: np.float32([[len(crops), 0, 0]] * len(crops))
    assert known._enrol(str(people))[0] == ['Ada', 'Bo', 'Cleo']
    assert capsys.readouterr().err.splitlines() == [
        f'{people / "Bo" / "1.png"}: not an image; left out', f'{empty}: no picture of a face in it; left out',
        f'{loose}: no picture of a face in it; left out']


def test_whole_pictures_are_compared(system, cudart, wide_crops, tmp_path):
    for index, crop in enumerate(wide_crops[:2]):
        (tmp_path / f'{index}.png').write_bytes(encode_image(crop, '.png'))
    done = run_on_board(sys.executable, system, cudart, 'run.py', str(tmp_path / '0.png'), str(tmp_path / '1.png'))
    assert done.returncode == 0 and 'persons' in done.stdout, done.stderr
    names = [str(tmp_path / f'{index % 2}.png') for index in range(6)]
    done = run_on_board(sys.executable, system, cudart, 'run.py', *names)
    assert len(done.stdout.splitlines()) == 15, 'each two'
    done = run_on_board(sys.executable, system, cudart, 'run.py', names[0])
    assert done.returncode == 1 and '0.png: 1 faces; name two to compare, or --out' in done.stderr and not done.stdout
    (tmp_path / '1.png').write_bytes(encode_image(np.zeros((90, 90, 3), np.uint8), '.png'))
    done = run_on_board(sys.executable, system, cudart, 'run.py', str(tmp_path / '0.png'), str(tmp_path / '1.png'))
    assert done.returncode == 1 and '1.png: no face found' in done.stderr and 'Traceback' not in done.stderr


def test_video(system, cudart, people, photo, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / 'in.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 25, (640, 443))
    for _ in range(3):
        writer.write(cv2.resize(photo, (640, 443))[..., ::-1])
    writer.release()
    done = run_on_board(sys.executable, system, cudart, 'recognise.py', str(people), '--camera', str(tmp_path / 'in.avi'),
                        '--out', str(tmp_path / 'out.avi'))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line['frame'] for line in lines] == [0, 1, 2] and all(len(line['faces']) == 6 for line in lines)
    assert '3 frames' in done.stderr and 'detect' in done.stderr
    drawn, shown = cv2.VideoCapture(str(tmp_path / 'out.avi')), cv2.VideoCapture(str(tmp_path / 'in.avi'))
    assert np.abs(drawn.read()[1].astype(int) - shown.read()[1]).max() > 100


def test_errors_are_one_line(system, tx2_like, cudart, people, tmp_path):
    (tmp_path / 'nobody' / 'Ada').mkdir(parents=True)
    cases = [
        (system, ('recognise.py', str(people)), 'name either pictures or --camera'),
        (system, ('recognise.py', str(tmp_path / 'nowhere'), 'a.jpg'), 'no such folder'),
        (system, ('recognise.py', str(tmp_path / 'nobody'), 'a.jpg'), 'no person in it'),
        (system, ('recognise.py', str(people), '--camera', 'nothing.mp4'), 'cannot open it'),
        (system, ('run.py', str(people / 'Ada' / '1.png'), '--precision', 'detector', '--out', 'e.npz'),
         '--precision detector: name one precision of the recogniser: fp16'),
        (system, ('recognise.py', str(people), 'a.jpg', '--precision', 'fp16,fp16'), 'one precision of the recogniser: fp16'),
        (tx2_like, ('recognise.py', str(people), 'a.jpg'), "has no 'detector', only fp16; export it with --detector"),
    ]
    for bundle, command, message in cases:
        done = run_on_board(sys.executable, bundle, cudart, *command)
        assert done.returncode == 1 and message in done.stderr and 'Traceback' not in done.stderr, (command, done.stderr)


@pytest.fixture
def tx2_like(system, tmp_path) -> Path:
    """The same bundle without its detector."""
    shutil.copytree(system, tmp_path / 'without')
    facts = json.loads((tmp_path / 'without' / 'bundle.json').read_text())
    del facts['variants']['detector']
    (tmp_path / 'without' / 'bundle.json').write_text(json.dumps(facts))
    return tmp_path / 'without'


def test_a_camera_that_gives_nothing_and_a_video_that_cannot_be_written(system, cudart, people, photo, tmp_path):
    frames = tmp_path / 'in.avi'
    writer = cv2.VideoWriter(str(frames), cv2.VideoWriter_fourcc(*'MJPG'), 25, (320, 222))
    writer.write(cv2.resize(photo, (320, 222))[..., ::-1])
    writer.release()
    command = ('recognise.py', str(people), '--camera', str(frames), '--out', str(tmp_path / 'nowhere' / 'out.avi'))
    done = run_on_board(sys.executable, system, cudart, *command)
    assert done.returncode == 1 and 'OpenCV cannot write a video there' in done.stderr and 'Traceback' not in done.stderr


@pytest.mark.parametrize('python', INTERPRETERS)
def test_names_beyond_ascii_without_a_locale(python, system, cudart, people):
    """As a service, cron or a container runs it; OpenCV 4.1's own reader crashes on such a name."""
    (people / 'Ada').rename(people / 'Jürgen')
    pictures = [str(people / 'Jürgen' / name) for name in ('1.png', 'weg.png')]
    done = run_on_board(python, system, cudart, 'recognise.py', str(people), *pictures, LC_ALL='C', PYTHONUTF8='0',
                        PYTHONCOERCECLOCALE='0')  # newer Pythons take UTF-8 for C
    assert done.returncode == 1, done.stderr
    found, missing = map(json.loads, done.stdout.splitlines())
    assert found['picture'] == pictures[0] and found['faces'][0]['name'] == 'Jürgen'
    assert missing['picture'] == pictures[1] and missing['error'].startswith(f'{pictures[1]}: ')


def test_no_face_gives_no_embedding():
    engine = SimpleNamespace(largest=(8, 3, 112, 112))
    assert Recogniser(engine, {'input_size': 112}, 512)(np.empty((0, 112, 112, 3), np.uint8)).shape == (0, 512)


def test_nothing_passes_a_gate_by_being_no_number():
    result = {'faces': 2, 'found': 2, 'min_iou': float('nan'), 'landmark_error': 0.0}
    assert not agrees(result, board_detector.ACCEPT)
    assert agrees({**result, 'min_iou': 0.95}, board_detector.ACCEPT)


def test_what_is_not_a_detector(small_net, recogniser_file, detector_file, face_bin, tmp_path, monkeypatch):
    def bundle(detector: Path, to: str = 'tensorrt') -> None:
        export(small_net, 'small', to, tmp_path / 'x.tar', face_bin, LOOSE, device='jetson-tx2' * (to == 'tensorrt') or None,
               detector=detector)
    with pytest.raises(ValueError, match='9, 12 or 15'):
        bundle(recogniser_file)
    with pytest.raises(ValueError, match='holds the recogniser only'):
        bundle(detector_file, 'onnx')
    with pytest.raises(GraphError, match='one output'):
        Graph.load(detector_file).output  # noqa: B018
    monkeypatch.setattr(board_detector, 'ACCEPT', {'min_iou': 1.0, 'landmark_error': 0.0})
    with pytest.raises(GateError, match='in 16 bits'):
        bundle(detector_file)
    import onnx
    model = onnx.load(detector_file)
    next(node for node in model.graph.node if node.op_type == 'Sigmoid').op_type = 'HardSwish'
    next(entry for entry in model.opset_import if not entry.domain).version = 14
    onnx.save(model, tmp_path / 'new.onnx')
    with pytest.raises((LintError, ValueError), match='HardSwish'):
        bundle(tmp_path / 'new.onnx')
    assert not (tmp_path / 'x.tar').exists()


def test_typed_half_for_strong_typing(detector_file):
    """TensorRT 11 takes precisions from the graph's types only."""
    from zoo.export.target import target
    part = board_detector.board_detector(detector_file, target('jetson-orin-jp7'))
    import onnx
    model = onnx.load_from_string(part.files['detector.onnx'])
    kinds = {tensor.data_type for tensor in model.graph.initializer if tensor.name.endswith(('weight', 'bias'))}
    assert kinds == {onnx.TensorProto.FLOAT16} and part.facts['flags'] == []
    assert [output.name for output in model.graph.output] == part.facts['outputs'] and part.report['min_iou'] > 0.98


@pytest.mark.parametrize(('frames', 'status', 'written'), [(0, 1, 11), (3, 0, 3)])
def test_a_camera_that_is_lost_is_an_error(frames, status, written, monkeypatch, capsys, tmp_path):
    """As `facezoo watch` has it; a video in the network that has an end is none. What is written keeps the time of a camera
    that gives five frames a second, or of which no more are looked at, and the size of the first one: a stream whose sender
    adapts to the network changes it."""
    clock, shown = [0.0], []

    class Writer:
        isOpened, write, release = (lambda self: True), (lambda self, frame: shown.append(frame)), (lambda self: None)

    class Camera:
        def __init__(self, source: str) -> None:
            self.left = 3

        def isOpened(self) -> bool:
            return True

        def get(self, which: int) -> float:
            return frames if which == cv2.CAP_PROP_FRAME_COUNT else 0.0

        def read(self):
            self.left -= 1
            clock[0] += 0.2
            return self.left >= 0, np.zeros((40, 60, 3) if self.left else (20, 30, 3), np.uint8)

        def release(self) -> None:
            pass

    class System:
        seconds = {'detect': 0.0, 'recognise': 0.0}

        def __call__(self, picture: np.ndarray) -> list:
            return []

    monkeypatch.setattr(cv2, 'VideoCapture', Camera)
    monkeypatch.setattr(cv2, 'VideoWriter', lambda *options: Writer())
    monkeypatch.setattr(recognise, 'time', SimpleNamespace(perf_counter=lambda: clock[0]))
    assert recognise._watch(System(), 'rtsp://ann:secret@door', str(tmp_path / 'seen.avi')) == status and len(shown) == written
    assert {frame.shape for frame in shown} == {(40, 60, 3)}
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line['seconds'] for line in lines] == [0.2, 0.4, 0.6]
    came = [datetime.fromisoformat(line['time']) for line in lines if 'time' in line]  # a log tells when somebody was there
    assert len(came) == 3 * status and all(abs(datetime.now().astimezone() - time) < timedelta(minutes=5) for time in came)
    assert ('rtsp://...@door ended after 3 frames' in said.err) == (status == 1)


@pytest.mark.parametrize('top', [-8, 2, 60])
def test_a_label_stays_in_the_picture(top):
    face = {'box': [-5.0, float(top), 90.0, top + 90.0], 'name': 'Ada', 'similarity': 0.7}
    boxed = cv2.rectangle(np.zeros((200, 200, 3), np.uint8), (-5, top), (90, top + 90), recognise.GREEN, 2)
    drawn = recognise._draw(np.zeros((200, 200, 3), np.uint8), [face])
    rows, columns = np.nonzero((drawn != boxed).any(2))
    assert len(rows) > 300 and rows.min() > 0 and np.ptp(rows) >= 12 and columns.max() > 60
