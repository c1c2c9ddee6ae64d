"""Detectors: contract of every registered one, printed figures, anchors, deployed outputs, runtimes, a teacher's checkpoint."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import zoo
from plugins.detectors._deploy import DeployedDetector
from plugins.detectors.anchors import Anchors, decode, encode, match
from plugins.faces import Faces
from plugins.preprocess import PictureNorm
from plugins.registry import create_detector, list_detectors, register_detector
from zoo.cli import main
from zoo.complexity import profile
from zoo.export.detector import export_detector
from zoo.export.fold import fold_batchnorm
from zoo.export.parity import GateError
from zoo.hub import resolve
from zoo.jetson.decode import fit, suppress
from zoo.runtime.detector import USUAL_SCORE, FaceDetector, candidates, open_detector
from zoo.runtime.torch import TorchDetector
from zoo.weights import save_weights


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Untrained weights with lively statistics, so that a wrong folding shows."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.7, 1.3)
    return model.eval()


@pytest.fixture(scope='module')
def teacher(shared):
    path = shared / 'data' / 'teachers' / 'retinaface_mnet025.pth'
    if not path.is_file():
        pytest.skip(f'needs {path}')
    return zoo.load('retinaface_mnet025', weights=path)


@pytest.mark.parametrize('name', list_detectors())
def test_contract(name):
    model = randomise(create_detector(name))
    card = zoo.card(name)
    assert card.task == 'detection'
    height, width = 128, 192
    with torch.no_grad():
        logits, boxes, landmarks = model(torch.randn(2, 3, height, width))
    count = len(model.anchors.priors(height, width))
    assert logits.shape == (2, count, 2) and boxes.shape == (2, count, 4) and landmarks.shape == (2, count, 10)
    assert logits.dtype == torch.float32 and not torch.equal(logits[0], logits[1])
    with torch.no_grad():  # a whole network in another precision, and without memory
        assert torch.isfinite(model.bfloat16()(torch.randn(1, 3, height, width).bfloat16())[0]).all()
        assert model.to('meta')(torch.zeros(1, 3, height, width, dtype=torch.bfloat16, device='meta'))[0].shape == (1, count, 2)


@pytest.mark.parametrize('name', list_detectors())
def test_card_figures(name):
    card = zoo.card(name)
    model = create_detector(name)
    found = profile(model)
    assert sum(p.numel() for p in model.parameters()) == card.params
    assert found.macs == card.macs


def test_retinaface_meets_the_printed_figures():
    found = profile(create_detector('retinaface_mnet025', input_size=(320, 320)))
    assert round(found.params / 1e6, 4) == 0.4266
    assert round(found.macs_paper / 1e6, 2) == 254.33


@pytest.mark.parametrize('name', list_detectors())
def test_deployed_outputs_are_the_decoded_ones(name):
    model = randomise(create_detector(name))
    for heads in (model.heads.scores, model.heads.boxes):  # untrained heads give next to nothing
        for module in heads.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.data.mul_(3)
    model.preprocess = PictureNorm(mean=(120.0, 110.0, 100.0), std=60.0, colour='BGR')
    picture = np.random.default_rng(0).integers(0, 256, (1, 128, 192, 3)).astype(np.uint8)
    with torch.no_grad():
        logits, boxes, landmarks = model(torch.from_numpy(model.preprocess(picture)))
        corners, points = decode(boxes, landmarks, model.anchors.priors(128, 192))
        net = TorchDetector(fold_batchnorm(model))
    found = candidates(net, picture[0], 0.0)
    assert corners.std() > 1
    np.testing.assert_allclose(found.boxes, corners[0], rtol=1e-3, atol=2e-2)
    np.testing.assert_allclose(found.landmarks, points[0], rtol=1e-3, atol=2e-2)
    np.testing.assert_allclose(found.scores, logits[0].softmax(1)[:, 1], atol=1e-4)


def test_maps_and_rows_hold_the_same():
    model = randomise(create_detector('retinaface_mnet025'))
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        rows, maps = DeployedDetector(model)(x), DeployedDetector(model, rows=False)(x)
    for a, b in zip(rows, maps, strict=True):
        assert torch.equal(a, b.permute(0, 2, 3, 1).reshape(-1, a.shape[1]))


def test_deployed_form_is_where_the_detector_is():
    """All of it, as where a teacher on a GPU labels pictures; PyTorch's `meta` stands for one."""
    model = create_detector('retinaface_mnet025').to('meta')
    model.preprocess = PictureNorm((123.0, 117.0, 104.0), 1.0, 'BGR')
    net = DeployedDetector(model)
    assert net.shift is not None and {part.device.type for part in (*net.parameters(), *net.buffers())} == {'meta'}


def test_anchors_encode_and_decode():
    priors = Anchors().priors(64, 96)
    assert priors[0].tolist() == [4, 4, 16] and priors[1].tolist() == [4, 4, 32] and priors[2].tolist() == [12, 4, 16]
    assert len(priors) == 2 * (8 * 12 + 4 * 6 + 2 * 3)
    rng = np.random.default_rng(0)
    boxes = torch.from_numpy(np.sort(rng.uniform(0, 60, (len(priors), 2, 2)), 1).reshape(-1, 4).astype(np.float32))
    points = torch.from_numpy(rng.uniform(0, 60, (len(priors), 5, 2)).astype(np.float32))
    back, points_back = decode(*encode(boxes, points, priors), priors)
    torch.testing.assert_close(back, boxes, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(points_back, points, atol=1e-3, rtol=1e-3)


def test_anchors_need_whole_cells():
    with pytest.raises(ValueError, match='multiple'):
        Anchors().priors(100, 64)


def test_match_gives_every_box_a_prior():
    priors = Anchors().priors(64, 64)
    boxes = torch.tensor([[4.0, 4, 20, 20], [10.0, 12, 55, 60], [0.0, 0, 1, 1]])
    owner, overlap = match(boxes, priors)
    assert {0, 1} <= set(owner.tolist()) and 2 not in owner  # a box of one pixel is like no prior
    assert owner.max() < 3 and ((owner >= 0) <= (overlap > 0)).all()
    assert (match(boxes[:0], priors)[0] == -1).all()


def test_match_by_hand():
    """Overlaps of 1, 0.36 and 0.33 with a square face; of 0.25 with a narrow one, which is that face's best; of 0.06 with a
    third."""
    priors = torch.tensor([[8.0, 8, 16], [15.5, 8, 16], [16.0, 8, 16], [40.0, 40, 32], [80.0, 80, 32]])
    boxes = torch.tensor([[0.0, 0, 16, 16], [36.0, 24, 44, 56], [76.0, 76, 84, 84]])
    owner, overlap = match(boxes, priors)
    assert owner.tolist() == [0, 0, -1, 1, -1]
    assert overlap.tolist() == pytest.approx([1, 8.5 / 23.5, 1 / 3, 0.35, 1 / 16])


def test_suppression_keeps_the_best_of_overlapping_boxes():
    boxes = np.float32([[0, 0, 10, 10], [1, 1, 11, 11], [30, 30, 40, 40]])
    faces = Faces(boxes, np.zeros((3, 5, 2), np.float32), np.float32([0.6, 0.9, 0.7]))
    assert faces[suppress(faces.boxes, faces.scores)].scores.tolist() == pytest.approx([0.9, 0.7])


def test_fit_never_enlarges_and_pads_with_black(picture):
    small, factors = fit(picture, 320, 32)
    assert factors.tolist() == pytest.approx([320 / 1280, 222 / 886]) and small.shape == (224, 320, 3)
    assert not small[222:].any() and small[:221].any(2).mean() > 0.9
    tiny, factors = fit(picture[:1, :1], 320, 32)
    assert tiny.shape == (32, 32, 3) and (factors == 1).all()


class OneBox:
    """A net that sees one face, over the whole of a picture of one cell row; it remembers the size of what it was given."""

    name, strides, score, side = 'one box', (8,), None, None

    def __call__(self, pictures):
        self.shape = pictures.shape
        cells = pictures.shape[1] * pictures.shape[2] // 64
        scores, boxes = np.zeros((1, cells, 1), np.float32), np.zeros((1, cells, 4), np.float32)
        scores[0, 0], boxes[0, 0] = 0.9, (0, 0, pictures.shape[2] / 8, 1 / 8)
        return [scores, boxes, np.zeros((1, cells, 10), np.float32)]


def test_thin_pictures_are_scaled_back_in_both_directions():
    """12000 x 10 pixels become 640 x 1, not 640 x 0.53."""
    net = OneBox()
    for shape in ((10, 12000, 3), (1, 12000, 3)):
        faces = FaceDetector(net)(np.zeros(shape, np.uint8))
        assert net.shape == (1, 8, 640, 3)
        np.testing.assert_allclose(faces.boxes, [[0, 0, 12000, shape[0]]], rtol=1e-6)
    faces = FaceDetector(net, math.inf)(np.zeros((10, 12000, 3), np.uint8))
    assert net.shape == (1, 16, 12000, 3) and faces.boxes[0, 2] == 12000


def test_detectors_of_a_fixed_input(detector_file, picture, tmp_path):
    """As some of InsightFace's are exported (shape640x640): padded to the square, never given anything larger."""
    onnx = pytest.importorskip('onnx')
    free = open_detector(detector_file, threads=1)
    for name, sides in (('square', (640, 640)), ('flat', (480, 640))):
        model = onnx.load(detector_file)
        for dimension, side in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], sides, strict=True):
            dimension.dim_value = side
        onnx.save(model, tmp_path / f'{name}.onnx')
    for size in (640, 1280):
        found = open_detector(tmp_path / 'square.onnx', threads=1, size=size, threshold=free.threshold)(picture)
        assert len(found) == 6
        np.testing.assert_allclose(found.boxes, free(picture).boxes, atol=2)
    assert free.net.side is None and not len(open_detector(tmp_path / 'square.onnx', threads=1)(picture[:5, :5]))
    with pytest.raises(ValueError, match='480x640 pixels only'):
        open_detector(tmp_path / 'flat.onnx')


def test_lowest_score_is_that_of_the_weights(detector_file, tmp_path):
    """From the card for the zoo's weights, from the sidecar for what was exported from them, else InsightFace's."""
    chosen = zoo.card('retinaface_mnet025').weights['default'].thresholds['score']
    assert open_detector('retinaface_mnet025').threshold == open_detector(detector_file).threshold == chosen
    assert open_detector('retinaface_mnet025', threshold=0.2).threshold == 0.2
    bare = tmp_path / 'retinaface_mnet025.onnx'
    bare.write_bytes(detector_file.read_bytes())
    assert open_detector(bare).threshold == FaceDetector(OneBox()).threshold == USUAL_SCORE != chosen
    other = zoo.load('retinaface_mnet025')
    save_weights(tmp_path / 'other.safetensors', other, 'retinaface_mnet025')
    assert open_detector(tmp_path / 'other.safetensors').threshold == USUAL_SCORE
    assert open_detector('retinaface_mnet025', weights=tmp_path / 'other.safetensors').threshold == USUAL_SCORE


def test_exported_file_keeps_the_lowest_score(tmp_path):
    chosen = zoo.card('retinaface_mnet025').weights['default'].thresholds['score']
    assert main(['export', 'retinaface_mnet025', '--to', 'ncnn', '--out', str(tmp_path / 'net')]) == 0
    assert open_detector(tmp_path / 'net', threads=1).threshold == chosen
    weights = str(resolve(zoo.card('retinaface_mnet025').weights['default']))
    out = str(tmp_path / 'own.onnx')
    assert main(['export', 'retinaface_mnet025', '--weights', weights, '--to', 'onnx', '--out', out]) == 0
    assert open_detector(out, threads=1).threshold == USUAL_SCORE  # nothing is known of a user's weights


def test_public_checkpoint_finds_the_faces_of_the_sample(teacher, picture):
    faces = FaceDetector(TorchDetector(teacher))(picture)
    assert len(faces) == 6 and faces.scores.min() > 0.9
    assert (faces.landmarks[:, 0, 0] < faces.landmarks[:, 1, 0]).all()
    assert teacher.preprocess.colour == 'BGR'


def test_a_checkpoint_that_names_no_detector(tmp_path, capsys):
    """The remedy was --network, which is a recogniser's option; the one that is named now works."""
    path = tmp_path / 'public.pth'
    torch.save(zoo.load('retinaface_mnet025').state_dict(), path)
    (tmp_path / 'label.txt').write_text('# a.jpg\n1 2 30 40\n')
    assert main(['eval-detector', str(path), '--truth', str(tmp_path / 'label.txt'), '--pictures', str(tmp_path)]) == 1
    command = capsys.readouterr().err.split('`')[1].split()
    assert main([*command[1:-1], str(tmp_path / command[-1])]) == 0 and (tmp_path / 'public.onnx').is_file()
    assert open_detector(path, network='retinaface_mnet025').threshold == USUAL_SCORE


def test_public_checkpoint_agrees_with_its_own_onnx(teacher, shared, picture):
    """The published ONNX file of the same weights: loc, conf, landms before decoding."""
    ort = pytest.importorskip('onnxruntime')
    session = ort.InferenceSession(shared / 'data' / 'teachers' / 'retinaface_mnet025.onnx', providers=['CPUExecutionProvider'])
    view = fit(picture, 320, 32)[0][None]
    x = np.ascontiguousarray((view[..., ::-1].astype(np.float32) - np.float32([104, 117, 123])).transpose(0, 3, 1, 2))
    theirs = sorted(session.run(None, {session.get_inputs()[0].name: x}), key=lambda o: o.shape[-1])
    with torch.no_grad():
        logits, boxes, landmarks = teacher(torch.from_numpy(teacher.preprocess(view)))
    for own, other in zip((logits.softmax(2), boxes, landmarks), theirs, strict=True):
        assert other.std() > 0.01
        np.testing.assert_allclose(own.numpy().reshape(other.shape), other, atol=2e-4)


@pytest.mark.parametrize('name', ['retinaface_mnet025', 'ssd_mobilenetv2'])
@pytest.mark.parametrize('to', ['onnx', 'ncnn'])
def test_exported_detector_agrees_at_every_size(name, to, tmp_path, picture):
    pytest.importorskip(to)
    model = randomise(create_detector(name))
    sidecar = export_detector(model, name, to, tmp_path / ('net.onnx' if to == 'onnx' else 'net'))
    assert sidecar['parity']['max_abs'] < 1e-3 and sidecar['versions']['numpy'] == np.__version__ and sidecar['created']
    assert sidecar['preprocess'] == {'mean': (127.5, 127.5, 127.5), 'std': 128.0, 'colour': 'RGB'}
    assert sidecar['outputs'] == [f'{kind}_{stride}' for kind in ('score', 'bbox', 'kps') for stride in sidecar['strides']]
    net = open_detector(tmp_path / ('net.onnx' if to == 'onnx' else 'net'), threads=1, size=256).net
    assert net.strides == model.anchors.strides
    view = fit(picture[200:600, 100:400], 192, net.strides[-1])[0][None]
    for own, other in zip(TorchDetector(model)(view), net(view), strict=True):
        assert own.shape == other.shape and own.std() > 0
        np.testing.assert_allclose(other, own, atol=1e-3)


def test_a_detector_file_of_no_numbers_is_refused(tmp_path, monkeypatch):
    class Broken(TorchDetector):
        def __call__(self, pictures):
            return [np.full_like(output, np.nan) for output in super().__call__(pictures)]

    model = randomise(create_detector('retinaface_mnet025'))
    monkeypatch.setattr('zoo.export.detector.open_detector', lambda *_, **__: FaceDetector(Broken(model)))
    with pytest.raises(GateError, match='differs from PyTorch by nan'):
        export_detector(model, 'retinaface_mnet025', 'onnx', tmp_path / 'net.onnx')
    assert not list(tmp_path.iterdir())


def test_bundled_detector_finds_the_faces_of_the_sample(detector_file, picture):
    faces = open_detector(detector_file, threads=1)(picture)
    assert len(faces) == 6
    torch_faces = open_detector('retinaface_mnet025')(picture)
    np.testing.assert_allclose(faces.boxes, torch_faces.boxes, atol=0.1)
    assert not len(open_detector(detector_file, threads=1)(np.zeros((300, 200, 3), np.uint8)))


def test_a_recogniser_is_no_detector(recogniser_file):
    with pytest.raises(ValueError, match='a detector has 9, 12 or 15'):
        open_detector(recogniser_file)


def test_outputs_in_another_order_are_refused(detector_file, tmp_path):
    """Stride by stride, as other programs export: scores were read as boxes."""
    onnx = pytest.importorskip('onnx')
    model = onnx.load(detector_file)
    outputs = [model.graph.output[3 * kind + level] for level in range(3) for kind in range(3)]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    onnx.save(model, tmp_path / 'other.onnx')
    with pytest.raises(ValueError, match=r'score_8, bbox_8, kps_8, .* of \[1, 4, 10, 1, .*all scores \(1\), then'):
        open_detector(tmp_path / 'other.onnx')


def test_registering_twice_is_refused():
    with pytest.raises(ValueError, match='registered twice'):
        def retinaface_mnet025():
            return None
        register_detector(retinaface_mnet025)


def test_another_normalisation_gives_the_same_faces(picture):
    """BGR minus the mean of ImageNet, as public checkpoints have it, worked into the first layers."""
    model = randomise(create_detector('retinaface_mnet025'))
    model.preprocess = PictureNorm((123.0, 117.0, 104.0), 1.0, 'BGR')
    pictures = picture[None, :640, :640]
    with torch.inference_mode():
        before = model.extract(torch.from_numpy(model.preprocess(pictures)))
        model.renormalise(PictureNorm())
        after = model.extract(torch.from_numpy(model.preprocess(pictures)))
    for a, b in zip(before, after, strict=True):
        inside = np.s_[..., a.shape[2] // 2:a.shape[2] // 2 + 1, a.shape[3] // 2:a.shape[3] // 2 + 1]
        assert a.std() > 0
        torch.testing.assert_close(a[inside], b[inside], rtol=1e-2, atol=1e-3 * float(a.abs().max()))
