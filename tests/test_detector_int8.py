"""Detectors in 8 bits: the same faces at every size, the gate that can fail, and where their files are taken or refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import zoo
from plugins.preprocess import Preprocess
from plugins.registry import create_detector
from tests.conftest import encode
from tests.nets import int8_layers
from zoo.cli import main
from zoo.export import detector_int8
from zoo.export.agreement import DetectionJudge, require_agreement
from zoo.export.board_detector import board_detector
from zoo.export.calibrate import Calibration
from zoo.export.detector import export_detector, output_names, trace_detector
from zoo.export.detector_int8 import MIN_PICTURES, heads
from zoo.export.graph import Graph, computes_in_integers
from zoo.export.ncnn_model import NcnnModel
from zoo.export.pack import PackError, check_pack
from zoo.export.parity import GateError
from zoo.export.quantize import macs_in_int8
from zoo.export.target import target
from zoo.jetson.detector import compare
from zoo.runtime.detector import USUAL_SCORE, FaceDetector, open_detector

NAME = 'retinaface_mnet025'


@pytest.fixture(scope='module')
def pictures(picture, tmp_path_factory):
    """As few pictures as will do: pieces of the group photo with some of its faces, mirrored, brighter and darker."""
    root, rng = tmp_path_factory.mktemp('pictures'), np.random.default_rng(0)
    for number in range(MIN_PICTURES):
        left, top = rng.integers(0, 1280 - 420), rng.integers(60, 260)
        piece = picture[top:top + 320:2, left:left + 420:2]
        piece = np.clip((piece[:, ::-1] if number % 2 else piece) * rng.uniform(0.7, 1.2), 0, 255).astype(np.uint8)
        (root / f'{number:02}.png').write_bytes(encode(piece, '.png'))
    return root


@pytest.fixture(scope='module')
def files(pictures, tmp_path_factory):
    """By format, the bundled detector in 8 bits, made by the command."""
    pytest.importorskip('ncnn')
    root = tmp_path_factory.mktemp('int8')
    paths = {'onnx': root / 'detector.onnx', 'ncnn': root / 'detector'}
    for to, path in paths.items():
        assert main(['export', NAME, '--to', to, '--precision', 'int8', '--calib', str(pictures), '--out', str(path)]) == 0
    return paths


@pytest.mark.parametrize('to', ['onnx', 'ncnn'])
def test_finds_the_same_faces_at_every_size(to, files, detector_file, picture):
    assert open_detector(files[to]).threshold == open_detector(detector_file).threshold != USUAL_SCORE
    found, exact = (open_detector(file, threads=1, threshold=0.8) for file in (files[to], detector_file))
    for view in (picture, picture[:, 380:900], picture[::2, ::2]):  # landscape, portrait, small
        pair = [(f.boxes, f.landmarks, f.scores) for f in (exact(view), found(view))]
        report = compare(*pair)
        assert report['faces'] == report['found'] > 1 and report['min_iou'] > 0.8 and report['landmark_error'] < 0.2
        assert not np.array_equal(pair[0][0], pair[1][0])
    assert not len(found(np.zeros((300, 200, 3), np.uint8)))


@pytest.mark.parametrize('to', ['onnx', 'ncnn'])
def test_sidecar_says_how(to, files):
    file = files[to] if to == 'onnx' else files[to] / f'{NAME}.param'
    sidecar = json.loads(file.with_suffix('.json').read_text())
    plan, agreement = sidecar['quantisation'], sidecar['agreement']
    assert (sidecar['precision'], plan['method'], plan['pictures']) == ('int8', 'mse', 32)
    assert 0.8 < plan['int8_macs'] < 0.97 and len(plan['calibration_sha256']) == 64
    assert len(plan['keep']) == 12 + plan['first_layers'] and plan['tried'][-1]['agreement'] == agreement
    assert agreement['pictures'] == 17 and agreement['faces'] > 14 and agreement['recall'] >= 0.97
    assert file.name in sidecar['sha256'] and sidecar['licence']


def test_computes_in_integers(files, detector_file):
    import onnx
    model, exact = onnx.load(files['onnx']), onnx.load(detector_file)
    assert computes_in_integers(files['onnx']) and not computes_in_integers(detector_file)
    assert files['onnx'].stat().st_size < detector_file.stat().st_size / 2
    assert list(model.graph.output) == list(exact.graph.output) and list(model.graph.input) == list(exact.graph.input)
    assert [o.name for o in model.graph.output] == output_names((8, 16, 32))
    layers = int8_layers(NcnnModel.load(files['ncnn'] / f'{NAME}.param'))
    kept = json.loads((files['ncnn'] / f'{NAME}.json').read_text())['quantisation']['keep']
    assert len(layers) - sum(layers.values()) == len(kept)


def test_insightface_loads_it(files, picture):
    """FaceAnalysis's own class for detectors, unmodified."""
    model_zoo = pytest.importorskip('insightface.model_zoo')
    model = model_zoo.get_model(str(files['onnx']), providers=['CPUExecutionProvider'])
    model.prepare(-1, input_size=(640, 640), det_thresh=0.8)
    boxes, landmarks = model.detect(np.ascontiguousarray(picture[..., ::-1]))
    assert boxes.shape == (6, 5) and landmarks.shape == (6, 5, 2)


def test_taken_by_the_pipeline_refused_by_boards_and_packs(files, detector_file, recogniser_file, people, picture, tmp_path,
                                                           capsys):
    photo = tmp_path / 'photo.png'
    photo.write_bytes(encode(picture, '.png'))
    for to, file in files.items():
        models = ['--model', str(recogniser_file), '--detector', str(file), '--threads', '1', '--threshold', '0.3']
        assert main(['enrol', str(tmp_path / f'{to}.npz'), str(people), *models]) == 0
        assert main(['recognise', str(photo), '--gallery', str(tmp_path / f'{to}.npz'), *models]) == 0
        assert capsys.readouterr().out.count('Person ') >= 5
    with pytest.raises(ValueError, match='8 bits is for ONNX Runtime and NCNN; for a bundle give'):
        board_detector(files['onnx'], target('jetson-tx2'))
    with pytest.raises(PackError, match='a pack is for any'):
        check_pack(tmp_path, 'fdfacenet', Preprocess(), files['onnx'])
    check_pack(tmp_path, 'fdfacenet', Preprocess(), detector_file)


def test_wrecked_ranges_do_not_pass(pictures, tmp_path, monkeypatch):
    original = detector_int8.fit_ranges

    def clipped(*args):
        made = original(*args)
        return Calibration(made.method, {name: 0.05 * value for name, value in made.amax.items()}, made.absmax, made.images,
                           made.images_sha256, made.preprocess)
    monkeypatch.setattr(detector_int8, 'fit_ranges', clipped)
    monkeypatch.setattr(detector_int8, 'FIRST', (8,))
    out = tmp_path / 'out' / 'detector.onnx'
    with pytest.raises(GateError, match=r'agreement gate, .* recall 0.* Calibrate on more pictures') as refused:
        export_detector(zoo.load(NAME), NAME, 'onnx', out, 'int8', pictures)
    assert refused.value.report['tried'][0]['agreement']['recall'] < 0.5
    assert not out.parent.exists()


def test_what_8_bits_need(pictures, tmp_path, capsys):
    def export(*options: str) -> str:
        assert main(['export', NAME, '--to', 'onnx', '--out', str(tmp_path / 'x.onnx'), *options]) == 1
        return capsys.readouterr().err
    assert f'--calib PICTURES (a folder or zip of at least {MIN_PICTURES}' in export('--precision', 'int8')
    assert 'written in fp32 or int8' in export('--precision', 'fp16')
    few, empty = tmp_path / 'few', tmp_path / 'empty'
    few.mkdir()
    for path in sorted(pictures.iterdir())[:-1]:
        (few / path.name).write_bytes(path.read_bytes())
    assert f'{MIN_PICTURES - 1} pictures to calibrate on' in export('--precision', 'int8', '--calib', str(few))
    empty.mkdir()
    grey = encode(np.full((64, 64, 3), 90, np.uint8), '.png')
    for number in range(MIN_PICTURES):
        (empty / f'{number}.png').write_bytes(grey)
    assert '0 faces in the 16 pictures that are held back' in export('--precision', 'int8', '--calib', str(empty))
    assert 'no images' in export('--precision', 'int8', '--calib', str(tmp_path / 'nowhere'))
    assert not (tmp_path / 'x.onnx').exists()


@pytest.mark.parametrize(('name', 'count'), [(NAME, 12), ('ssd_mobilenetv2', 16)])
def test_heads(name, count):
    """Three a map, and what mixes the boxes' sides."""
    graph = Graph(trace_detector(create_detector(name).eval(), rows=True))
    assert len(heads(graph)) == count and graph.layers[0].name not in heads(graph)


def test_shares_of_the_arithmetic_at_a_fixed_size():
    graph = Graph(trace_detector(create_detector(NAME).eval(), rows=True))
    sized = graph.at((1, 3, 320, 320))
    assert None not in sized.shapes[graph.layers[-1].output] and None in graph.shapes[graph.layers[-1].output]
    macs = 27 * len(graph.layers[0].weight) * 160 * 160
    assert macs / (1 - macs_in_int8(sized, [graph.layers[0].name])) == pytest.approx(zoo.card(NAME).macs, rel=0.02)


class Scored:
    """A net that sees faces side by side, one a given score."""

    name, strides, score, side = 'scored', (8,), 0.5, None

    def __init__(self, *scores: float, shift: float = 0.0) -> None:
        self.scores, self.shift = scores, shift

    def __call__(self, pictures):
        cells = pictures.shape[1] * pictures.shape[2] // 64
        scores, boxes = np.zeros((1, cells, 1), np.float32), np.ones((1, cells, 4), np.float32)
        points = np.tile(np.float32([-0.5, -0.5, 0.5, -0.5, 0, 0, -0.5, 0.5, 0.5, 0.5]), (1, cells, 1))
        scores[0, :4 * len(self.scores):4, 0] = self.scores
        return [scores, boxes, points + np.float32(self.shift)]


def test_agreement_by_hand():
    judge = DetectionJudge(FaceDetector(Scored(0.9, 0.8, 0.55, 0.45)), [np.zeros((8, 160, 3), np.uint8)])
    assert judge.faces == [2]  # 0.55 and 0.45 are in doubt

    def report(*scores: float, shift: float = 0.0) -> dict:
        return judge(FaceDetector(Scored(*scores, shift=shift)))
    require_agreement(report(0.9, 0.8, 0.4, 0.6))
    missed, alarm, moved = report(0.9, 0.4), report(0.9, 0.9, 0, 0, 0.9), report(0.9, 0.9, shift=0.05)
    assert (missed['recall'], missed['precision'], missed['mean_iou']) == (0.5, 1, 1)
    assert alarm['precision'] == pytest.approx(2 / 3) and alarm['false_alarms'] == 1
    assert moved['landmark_error'] == pytest.approx(0.05 * 2 ** 0.5, rel=1e-3)
    for bad, message in ((missed, 'recall 0.500'), (alarm, 'precision 0.667'), (moved, 'landmark error 0.071'),
                         (report(), 'landmark error nan')):
        with pytest.raises(GateError, match=message) as refused:
            require_agreement(bad)
        assert refused.value.report == bad
