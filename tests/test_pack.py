"""Packs: loaded by the installed InsightFace, and refused where it would misread them."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

from plugins.backbones.fdfacenet import FDFaceNet
from plugins.preprocess import Preprocess
from tests.conftest import benchmark
from zoo.export.onnx import export_onnx
from zoo.export.pack import PackError, check_pack, write_pack
from zoo.runtime.torch import TorchEmbedder

bench = benchmark('packs')


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    net = FDFaceNet(width=0.125).eval()
    net.preprocess = Preprocess()
    return net


@pytest.fixture(scope='module')
def recogniser(model, tmp_path_factory):
    path = tmp_path_factory.mktemp('pack') / 'small.onnx'
    export_onnx(model, path)
    return path


@pytest.fixture(scope='module')
def detector(tmp_path_factory, crops):
    path = tmp_path_factory.mktemp('detector') / 'found.onnx'
    bench.sample_detector(path)
    return path


def test_face_analysis_finds_and_recognises(model, recogniser, detector, tmp_path, crops, capsys):
    """Unmodified InsightFace, from the picture to the embedding, gives what facezoo gives on its own crops."""
    from zoo.pipeline.sample import sample_image
    write_pack(tmp_path, 'small', recogniser, Preprocess(), 512, 'research use only', detector)
    np.save(tmp_path / 'crops.npy', crops)
    bench.inside(str(tmp_path), 'small', str(sample_image()), str(tmp_path / 'crops.npy'))
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    ours = TorchEmbedder(model)(crops)
    assert np.ptp(ours, axis=0).max() > 1e-4
    found = bench.compare(answer, ours)
    assert found['faces'] == 6 and found['min_cosine_faceanalysis'] > bench.ALIKE and found['batch_against_single'] < 1e-4
    assert answer['tasks']['recognition'] == 'ArcFaceONNX' and answer['normalisation'] == [127.5, 127.5]
    manifest = json.loads((tmp_path / 'models' / 'small' / 'manifest.json').read_text())
    assert set(manifest['tasks']) == {'recognition', 'detection'} and manifest['license'] == 'MODEL.LICENSE'


@pytest.mark.parametrize(('preprocess', 'message'), [
    (Preprocess(input_size=96), '96x96 model for an attribute net; build and train it for 112x112'),
    (Preprocess(input_size=192), '192x192 model for a landmark net'),
    (Preprocess(input_size=160), '160x160 model for no recogniser'),
    (Preprocess(std=128), 'InsightFace feeds RGB')])
def test_models_that_would_be_misread(preprocess, message, tmp_path):
    with pytest.raises(PackError, match=message):
        check_pack(tmp_path, 'x', preprocess)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['../x', 'detector', '', 'a b'])
def test_bad_names(name, tmp_path):
    with pytest.raises(PackError, match='cannot name a pack'):
        check_pack(tmp_path, name, Preprocess())


def test_folder_with_other_models(tmp_path):
    (tmp_path / 'models' / 'x').mkdir(parents=True)
    (tmp_path / 'models' / 'x' / 'det.onnx').write_bytes(b'')
    with pytest.raises(PackError, match=r'already holds det\.onnx'):
        check_pack(tmp_path, 'x', Preprocess())


def test_folder_with_another_detector(recogniser, detector, tmp_path):
    folder = write_pack(tmp_path, 'small', recogniser, Preprocess(), 512, 'x', detector)
    before = sorted(path.name for path in folder.iterdir())
    (folder / 'detector.onnx').write_bytes(b'of somebody else')
    with pytest.raises(PackError, match=r'detector\.onnx is not the detector given'):
        write_pack(tmp_path, 'small', recogniser, Preprocess(), 512, 'x', detector)
    assert (folder / 'detector.onnx').read_bytes() == b'of somebody else'
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_recogniser_is_no_detector(recogniser, tmp_path):
    with pytest.raises(PackError, match='1 outputs; InsightFace knows a detector with landmarks by 9'):
        check_pack(tmp_path, 'small', Preprocess(), recogniser)


def test_a_detector_in_two_files(detector_file, tmp_path):
    """PyTorch's newer exporter writes such; the pack would open here, and nowhere else."""
    import onnx
    onnx.save(onnx.load(detector_file), tmp_path / 'two.onnx', save_as_external_data=True, location='two.data')
    with pytest.raises(PackError, match=r'two\.onnx: its weights lie in another file'):
        check_pack(tmp_path, 'x', Preprocess(), tmp_path / 'two.onnx')


def test_a_detector_with_outputs_in_another_order(detector_file, tmp_path):
    """InsightFace goes by their number, and would read boxes as scores."""
    import onnx
    model = onnx.load(detector_file)
    outputs = sorted(model.graph.output, key=lambda output: output.name.rpartition('_')[2])
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    onnx.save(model, tmp_path / 'other.onnx')
    with pytest.raises(PackError, match=r'other\.onnx: outputs .*all scores \(1\), then all boxes'):
        check_pack(tmp_path, 'a', Preprocess(), tmp_path / 'other.onnx')


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_read_only_root(recogniser, tmp_path):
    (tmp_path / 'models').mkdir(mode=0o500)
    with pytest.raises(PackError, match=r'cannot be written .*choose another --out'):
        write_pack(tmp_path, 'small', recogniser, Preprocess(), 512, 'x')


def test_root_that_is_a_file(recogniser, tmp_path):
    (tmp_path / 'models').write_text('')
    with pytest.raises(PackError, match=r'cannot be written .*choose another --out'):
        write_pack(tmp_path, 'small', recogniser, Preprocess(), 512, 'x')
