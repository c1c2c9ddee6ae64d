"""Forms of a network that only change its speed: 8 bits as onnxruntime runs them fast, NCNN without useless Winograd, and the
normalisation of pictures without temporaries."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import zoo
from plugins.layers import ECA
from plugins.preprocess import PictureNorm, Preprocess, l2_normalise
from zoo.export.artefact import export
from zoo.export.calibrate import fit_ranges, measure_histograms
from zoo.export.gates import Gates
from zoo.export.graph import Activations, Graph
from zoo.export.half import half_graph, typed_half_graph
from zoo.export.lint import overflowing_nodes
from zoo.export.ncnn import FEATURE_MASK, convert_to_ncnn
from zoo.export.ncnn_model import NcnnModel
from zoo.export.onnx import to_onnx
from zoo.export.quantize import onnxruntime_int8_graph
from zoo.export.search import Quantiser
from zoo.export.variants import half_variant
from zoo.runtime import open_embedder
from zoo.runtime.ncnn import ncnn_net

onnx = pytest.importorskip('onnx')
ort = pytest.importorskip('onnxruntime')


@pytest.fixture(scope='module')
def quantised(small_net, faces):
    """The small net's quantiser and its 8-bit form."""
    quantiser = Quantiser(Graph(to_onnx(small_net)), faces, Preprocess())
    return quantiser, onnxruntime_int8_graph(quantiser.graph, quantiser.plan('onnxruntime').calibration)


def test_integers_are_what_runs(quantised, tmp_path):
    _, model = quantised
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / 'optimised.onnx')
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=['CPUExecutionProvider'])
    kinds = [node.op_type for node in onnx.load(tmp_path / 'optimised.onnx').graph.node]
    assert kinds.count('QLinearConv') == 8  # seven convolutions and the GDC; the first layer stays in floating point
    assert kinds.count('PRelu') == 1 and kinds.count('Max') == 8  # that of the first layer, and those behind integers


def test_weights_are_stored_in_8_bits(quantised):
    quantiser, model = quantised
    stored = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4}
    assert len(stored) == 8 and len(model.SerializeToString()) < 0.5 * len(quantiser.graph.model.SerializeToString())


def test_embeddings_stay(quantised, crops):
    quantiser, model = quantised

    def embed(proto) -> np.ndarray:
        session = ort.InferenceSession(proto.SerializeToString(), providers=['CPUExecutionProvider'])
        return l2_normalise(session.run(None, {session.get_inputs()[0].name: Preprocess()(crops)})[0])
    exact, found = embed(quantiser.graph.model), embed(model)
    assert np.median(exact @ exact.T) < 0.9, 'the net does not tell faces apart'
    assert 0.97 < (exact * found).sum(1).min() < 0.999999  # near, but rounded
    assert np.argmax(found @ exact.T, 1).tolist() == list(range(len(crops)))


def test_attention_over_channels_runs_in_8_bits(small_net, faces, crops):
    """ECA convolves the channels: weights of three dimensions, as the bundled mobilefacenet96_eca has them."""
    net = torch.nn.Sequential(*small_net.features[:3], ECA(32), *small_net.features[3:], *small_net.head).eval()
    net.input_size = small_net.input_size
    quantiser = Quantiser(Graph(to_onnx(net)), faces, Preprocess())
    assert [layer.weight.ndim for layer in quantiser.graph.layers].count(3) == 1
    model = onnxruntime_int8_graph(quantiser.graph, quantiser.plan('onnxruntime').calibration)
    exact, found = (dict(Activations(Graph(proto), ('embedding',))(Preprocess()(crops)))['embedding']
                    for proto in (quantiser.graph.model, model))
    assert 0.9 < (l2_normalise(exact) * l2_normalise(found)).sum(1).min() < 0.999999


def test_a_dead_channel_keeps_its_bias(faces):
    """Weights of nothing have tiny steps, in which 32 bits do not reach the bias."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 8), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, groups=8), torch.nn.ReLU(),
                              torch.nn.Conv2d(8, 8, 1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    net.input_size = (112, 112)
    with torch.no_grad():
        net[2].weight[3], net[2].bias[3] = 0, 1
    graph = Graph(to_onnx(net))
    found = fit_ranges(measure_histograms(graph, faces, Preprocess()), faces, Preprocess(), 'minmax')
    name = graph.layers[1].output
    channel = dict(Activations(Graph(onnxruntime_int8_graph(graph, found)), (name,))(Preprocess()(faces[:2])))[name][:, 3]
    np.testing.assert_allclose(channel, 1, atol=0.02)


def test_kept_layers_stay_in_floating_point(quantised):
    quantiser, _ = quantised
    kept = quantiser.graph.layers[3]
    model = onnxruntime_int8_graph(quantiser.graph, quantiser.plan('onnxruntime').calibration, keep=(kept.name,))
    node = next(n for n in model.graph.node if n.name == kept.name)
    assert node.input[1] == kept.weight_name
    assert sum(t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4 for t in model.graph.initializer) == 7


def test_steep_slopes_keep_their_prelu(quantised, small_net):
    """max(x, a x) is PReLU only where no slope exceeds 1."""
    quantiser, _ = quantised
    graph = Graph(quantiser.graph.copy_model())
    slope = next(n.input[1] for n in graph.nodes if n.op_type == 'PRelu' and n.input[0] == graph.layers[2].output)
    readers = sum(n.op_type == 'PRelu' and n.input[1] == slope for n in graph.nodes)  # untrained slopes are shared
    graph.initializers[slope] = np.where(np.arange(graph.initializers[slope].size) == 0, 1.5, 0.25).reshape(
        graph.initializers[slope].shape).astype(np.float32)
    model = onnxruntime_int8_graph(graph, quantiser.plan('onnxruntime').calibration)
    assert [n.input[1] for n in model.graph.node if n.op_type == 'PRelu'].count(slope) == readers


def test_command_hands_out_8_bits_for_onnxruntime(small_net, face_folder, face_bin, tmp_path, crops):
    path = tmp_path / 'small.onnx'
    # an untrained net on 40 pairs, four a fold: only parity says something
    sidecar = export(small_net, 'small', 'onnx', path, face_bin, Gates(0.9, 0.5), precision='int8', calib=face_folder)
    assert sidecar['precision'] == 'int8' and 0.5 < sidecar['quantisation']['int8_macs'] < 1  # the first layer is in floats
    assert sidecar['verification']['artefact']['pairs'] == 40
    assert open_embedder(path, threads=1)(crops).shape == (6, 64)
    assert json.loads(path.with_suffix('.json').read_text())['parity']['min_cosine'] == sidecar['parity']['min_cosine']


def test_winograd_is_spared_on_maps_of_a_few_tiles(small_net):
    def spared(model) -> list[str]:
        layers = [layer for layer in convert_to_ncnn(Graph(to_onnx(model))).layers if layer.kind == 'Convolution']
        return ['spared' if FEATURE_MASK in layer.params else f'stride {layer.number(3)}' for layer in layers]
    assert spared(small_net) == ['stride 2'] * 5 + ['spared'] * 3  # 4x4 maps
    staged = spared(zoo.create('nfacenet', width=0.25).eval())  # maps of 56, 28 and 4 pixels without a stride
    assert staged == [f'stride {stride}' for stride in (2, 1, 2, 1, 2, 2, 2)] + ['spared']


def test_without_winograd_the_embedding_is_the_same(small_net, crops, tmp_path):
    import ncnn
    model = convert_to_ncnn(Graph(to_onnx(small_net)))
    image, found = Preprocess()(crops[:1])[0], {}
    for name in ('spared', 'winograd'):
        model.save(tmp_path / f'{name}.param')
        net = ncnn_net(tmp_path / f'{name}.param', threads=1)
        with net.create_extractor() as extractor:
            extractor.input(net.input_names()[0], ncnn.Mat(image))
            found[name] = np.array(extractor.extract(net.output_names()[-1])[1]).ravel()
        for layer in model.layers:
            layer.params.pop(FEATURE_MASK, None)
    assert found['spared'].std() > 0.01
    np.testing.assert_allclose(found['spared'], found['winograd'], atol=1e-4)
    assert '31=64' in (tmp_path / 'spared.param').read_text() and '31=' not in (tmp_path / 'winograd.param').read_text()
    assert NcnnModel.load(tmp_path / 'spared.param').layers[-1].arrays  # facezoo reads what it wrote


@pytest.mark.parametrize('norm', [PictureNorm(), PictureNorm((123.0, 117.0, 104.0), 1.0, 'BGR')])
def test_normalisation_of_pictures(norm, picture):
    views = np.stack([picture[:100, :64], picture[100:200, 300:364]])
    order = [2, 1, 0] if norm.colour == 'BGR' else [0, 1, 2]
    expected = (views.astype(np.float64) - norm.mean)[..., order].transpose(0, 3, 1, 2) / norm.std
    found = norm(views)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    torch.testing.assert_close(torch.from_numpy(found).double(), torch.from_numpy(np.ascontiguousarray(expected)), rtol=1e-6,
                               atol=1e-6)


def test_large_values_stay_in_float_between_the_nodes_that_make_and_read_them():
    """A tensor beyond FP16's range, made by one node and tamed by the next, in both 16-bit forms; where no calibration has
    seen it, the simulations of both overflow, as the board will."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    first, second = np.full((4, 3, 1, 1), 30_000, np.float32), np.full((2, 4, 1, 1), 1e-5, np.float32)
    nodes = [helper.make_node(kind, inputs, [output], name) for kind, inputs, output, name in (
        ('Conv', ['image', 'w1'], 'large', 'conv1'), ('Relu', ['large'], 'positive', 'relu'),
        ('Conv', ['positive', 'w2'], 'small', 'conv2'), ('Relu', ['small'], 'out', 'end'))]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ['N', channels, 2, 2])
            for name, channels in (('image', 3), ('out', 2))]
    weights = [numpy_helper.from_array(value, name) for name, value in (('w1', first), ('w2', second))]
    model = helper.make_model(helper.make_graph(nodes, 'net', ends[:1], ends[1:], weights),
                              opset_imports=[helper.make_opsetid('', 13)])
    model.ir_version = 7
    onnx.checker.check_model(model)
    graph, x = Graph(model), np.random.default_rng(0).uniform(0.5, 1, (1, 3, 2, 2)).astype(np.float32)
    made = dict(Activations(graph)(x))
    assert made['large'].max() > 65504
    pinned = overflowing_nodes(graph, {name: float(np.abs(value).max()) for name, value in made.items()})
    assert pinned == ['conv1', 'relu', 'conv2']
    for form in (half_graph, typed_half_graph):
        found = dict(Activations(Graph(form(graph, pinned)), ('out',))(x))['out']
        np.testing.assert_allclose(found, made['out'], rtol=2e-3)
    for form in ('half', 'half_typed'):
        variant = half_variant(graph, {}, {'form': form, 'graph': 'net.onnx'})
        found = dict(Activations(Graph(variant.simulation), ('out',))(x))['out']
        assert not np.isfinite(found).all()
