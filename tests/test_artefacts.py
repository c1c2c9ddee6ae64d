"""Opening artefacts: what is damaged, mixed up, of other makers, or not theirs to overwrite."""

from __future__ import annotations

import json

import numpy as np
import pytest

import zoo
from zoo.export.artefact import export
from zoo.runtime.torch import TorchEmbedder


@pytest.fixture(scope='module')
def onnx_file(small_net, tmp_path_factory):
    path = tmp_path_factory.mktemp('onnx') / 'net.onnx'
    export(small_net, 'net', 'onnx', path)
    return path


def test_artefacts_that_do_not_open(tmp_path, onnx_file, monkeypatch):
    import onnx
    with pytest.raises(FileNotFoundError):
        zoo.open(tmp_path / 'x.onnx')
    (tmp_path / 'x.onnx').write_bytes(onnx_file.read_bytes()[:1000])
    with pytest.raises(ValueError, match='cannot load'):
        zoo.open(tmp_path / 'x.onnx')
    (tmp_path / 'x.param').write_text('7767517\n')
    with pytest.raises(FileNotFoundError, match=r'x\.bin'):
        zoo.open(tmp_path / 'x.param')
    with pytest.raises(RuntimeError, match='has no'):
        zoo.open(onnx_file, providers=('CUDAExecutionProvider',))
    with monkeypatch.context() as patch:  # as where it is built in and its libraries are missing: onnxruntime takes the CPU
        patch.setattr('onnxruntime.get_available_providers', lambda: ['CUDAExecutionProvider', 'CPUExecutionProvider'])
        with pytest.warns(UserWarning, match='not in available'), pytest.raises(RuntimeError, match=r'could not start .*CUDA'):
            zoo.open(onnx_file, providers=('CUDAExecutionProvider',))
    several = onnx.load(onnx_file)
    several.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(several, tmp_path / 'four.onnx')
    with pytest.raises(ValueError, match='takes 4 faces at a time'):
        zoo.open(tmp_path / 'four.onnx')


def test_graphs_of_other_makers(tmp_path, crops):
    """Embeddings may be maps of one pixel; grey pictures are not what a recogniser takes."""
    import onnx
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    for name, channels in (('maps', 3), ('grey', 1)):
        weight = np.random.default_rng(0).standard_normal((16, channels, 112, 112)).astype(np.float32)
        graph = helper.make_graph(
            [helper.make_node('Conv', ['x', 'weight'], ['y'])], name,
            [helper.make_tensor_value_info('x', kind, ['N', channels, 112, 112])],
            [helper.make_tensor_value_info('y', kind, ['N', 16, 1, 1])], [onnx.numpy_helper.from_array(weight, 'weight')])
        opset = helper.make_opsetid('', 13)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=7), tmp_path / f'{name}.onnx')
    embedder = zoo.open(tmp_path / 'maps.onnx')
    assert embedder(crops).shape == (len(crops), embedder.num_features) == (len(crops), 16)
    with pytest.raises(RuntimeError, match=r'grey\.onnx: onnxruntime cannot run it on float32 \(1, 3, 112, 112\)'):
        zoo.open(tmp_path / 'grey.onnx')


@pytest.mark.parametrize(('to', 'suffix'), [('onnx', '.onnx'), ('ncnn', '.param'), ('ncnn', '.bin')])
@pytest.mark.parametrize('name', ['fdfacenet', 'retinaface_mnet025'])
def test_files_that_are_not_those_of_the_sidecar_are_refused(name, to, suffix, small_net, tmp_path):
    """Changed by one bit, they would run, and recognise a little less well."""
    from zoo.export.detector import export_detector
    from zoo.runtime import open_embedder
    from zoo.runtime.detector import open_detector
    folder, renamed = tmp_path / 'made', tmp_path / 'renamed'
    out = folder / 'net.onnx' if to == 'onnx' else folder
    if name == 'fdfacenet':
        export(small_net, 'net', to, out)
        opened = open_embedder
    else:
        export_detector(zoo.load(name), 'net', to, out)
        opened = open_detector
    renamed.mkdir()
    for file in folder.iterdir():
        (renamed / f'other{file.suffix}').write_bytes(file.read_bytes())
    for path in (folder / 'net', renamed / 'other'):
        artefact = path.with_suffix('.onnx' if to == 'onnx' else '.param')
        opened(artefact, threads=1)
        file = path.with_suffix(suffix)
        data = file.read_bytes()
        file.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        with pytest.raises(ValueError, match=rf'{file.name}: its SHA-256 is not that in {path.name}\.json .* export again'):
            opened(artefact, threads=1)


@pytest.mark.parametrize('name', ['fdfacenet', 'retinaface_mnet025'])
def test_two_artefacts_do_not_share_a_sidecar(name, small_net, tmp_path):
    """The first would be opened without its options, and could not be checked."""
    from zoo.export.detector import export_detector
    from zoo.runtime import open_embedder
    from zoo.runtime.detector import open_detector
    make, opened, model = ((export, open_embedder, small_net) if name == 'fdfacenet' else
                           (export_detector, open_detector, zoo.load(name)))
    make(model, 'net', 'ncnn', tmp_path / 'a')
    sidecar = (tmp_path / 'a' / 'net.json').read_text()
    with pytest.raises(ValueError, match=r'net\.json belongs to net\.\w+, which .* choose another --out'):
        make(model, 'net', 'onnx', tmp_path / 'a' / 'net.onnx')
    make(model, 'net', 'ncnn', tmp_path / 'a')  # again, in its place
    assert json.loads((tmp_path / 'a' / 'net.json').read_text())['sha256'] == json.loads(sidecar)['sha256']
    make(model, 'net', 'onnx', tmp_path / 'net.onnx')
    (tmp_path / 'a' / 'net.json').write_bytes((tmp_path / 'net.json').read_bytes())
    with pytest.raises(ValueError, match=r'net\.param: net\.json beside it belongs to another export \(net\.onnx\)'):
        opened(tmp_path / 'a' / 'net.param', threads=1)


@pytest.mark.parametrize('name', ['fdfacenet', 'retinaface_mnet025'])
def test_a_file_that_is_no_sidecar_is_not_overwritten(name, small_net, tmp_path):
    """What verify.py measured on a board is called tx2.json in the guides, and the bundle tx2.tar."""
    from zoo.export.detector import export_detector
    make, model = (export, small_net) if name == 'fdfacenet' else (export_detector, zoo.load(name))
    (tmp_path / 'tx2.json').write_text('{"board": {}, "engines": {}}')
    with pytest.raises(ValueError, match=r'tx2\.json is no sidecar of an export.*choose another --out, or move it away'):
        make(model, 'net', 'onnx', tmp_path / 'tx2.onnx')
    assert [path.name for path in tmp_path.iterdir()] == ['tx2.json']


@pytest.mark.parametrize('text', [
    '[]', '"net"', '{"sha256": "ab"}', '{"preprocess": 1}', '{', '{"preprocess": {"colour": "bgr"}}',
    '{"preprocess": {"std": 0}}', '{"preprocess": {"std": "1"}}'])
def test_a_sidecar_that_is_none(text, onnx_file, tmp_path):
    (tmp_path / 'm.onnx').write_bytes(onnx_file.read_bytes())
    (tmp_path / 'm.json').write_text(text)
    with pytest.raises(ValueError, match=r'm\.json: not a facezoo sidecar .*export the model again'):
        zoo.open(tmp_path / 'm.onnx')


@pytest.mark.parametrize('to', ['onnx', 'ncnn'])
def test_no_faces_and_what_is_none(to, small_net, tmp_path):
    """No faces give no embeddings, as in PyTorch; what is no array is named."""
    from plugins.preprocess import FaceError
    out = tmp_path / 'net.onnx' if to == 'onnx' else tmp_path
    export(small_net, 'net', to, out)
    embedder = zoo.open(out)
    found, same = (each(np.empty((0, 112, 112, 3), np.uint8)) for each in (embedder, TorchEmbedder(small_net)))
    assert found.shape == same.shape == (0, 64) and found.dtype == same.dtype
    for wrong in (None, [np.zeros((112, 112, 3), np.uint8)]):
        with pytest.raises(FaceError, match=rf'shape \(N, 112, 112, 3\), got {type(wrong).__name__}'):
            embedder(wrong)
