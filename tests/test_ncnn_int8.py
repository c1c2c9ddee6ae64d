"""NCNN models read and written, and their 8 bits for real."""

from __future__ import annotations

import copy
import re
import subprocess

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from plugins.preprocess import Preprocess
from tests.conftest import settled
from tests.nets import cosines, embed, int8_layers
from zoo.export.calibrate import Calibration, fit_ranges, measure_histograms
from zoo.export.graph import Graph
from zoo.export.ncnn import convert_to_ncnn
from zoo.export.ncnn_int8 import make_table, match_layers, quantise_ncnn, write_table
from zoo.export.ncnn_model import NcnnFormatError, NcnnModel
from zoo.export.onnx import to_onnx
from zoo.export.quantize import SCHEMES, simulate_int8
from zoo.runtime import open_embedder
from zoo.runtime.ncnn import ncnn_net

PREPROCESS = Preprocess()


@pytest.fixture(scope='module')
def graph(small_net) -> Graph:
    return Graph(to_onnx(small_net))


@pytest.fixture(scope='module')
def calibration(graph, faces) -> Calibration:
    return fit_ranges(measure_histograms(graph, faces, PREPROCESS), faces, PREPROCESS, 'entropy')


@pytest.fixture(scope='module')
def x(faces) -> np.ndarray:
    return PREPROCESS(faces[::6])


@pytest.fixture(scope='module')
def converted(graph) -> NcnnModel:
    return convert_to_ncnn(graph)


@pytest.fixture(scope='module')
def int8(converted, graph, calibration, tmp_path_factory):
    """(path of the int8 model, its table)."""
    folder = tmp_path_factory.mktemp('ncnn')
    converted.save(folder / 'fp32.param')
    table = make_table(converted, graph, calibration)
    quantise_ncnn(NcnnModel.load(folder / 'fp32.param'), table).save(folder / 'int8.param')
    return folder / 'int8.param', table


def test_round_trip(converted, tmp_path):
    converted.save(tmp_path / 'a.param')
    NcnnModel.load(tmp_path / 'a.param').save(tmp_path / 'b.param')
    for suffix in ('.param', '.bin'):
        assert (tmp_path / f'a{suffix}').read_bytes() == (tmp_path / f'b{suffix}').read_bytes()


def test_what_ncnn_does_not_have_is_named():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 8), nn.GroupNorm(2, 8), nn.Flatten())
    net.input_size = (112, 112)
    with pytest.raises(NcnnFormatError, match=r'^NCNN has nothing for nn\.InstanceNorm1d; use other layers'):
        convert_to_ncnn(Graph(to_onnx(net)))


def test_a_converter_that_breaks_off(graph, monkeypatch):
    """The report of every way to deploy then has the row, and the others."""
    ended = subprocess.CompletedProcess([], -11, '', 'no such layer')
    monkeypatch.setattr(subprocess, 'run', lambda *arguments, **options: ended)
    with pytest.raises(NcnnFormatError, match=r'^pnnx failed \(-11\): no such layer$'):
        convert_to_ncnn(graph)


def test_products_of_matrices(tmp_path, faces, x):
    """What pnnx makes of fully connected layers over positions, with and without a bias, between layers of other kinds."""
    class Positions(nn.Module):
        def forward(self, x):
            return x.flatten(2).transpose(1, 2)

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 8), Positions(), nn.LayerNorm(8), nn.Linear(8, 12), nn.ReLU(),
                        nn.Linear(12, 4, bias=False), nn.Flatten(), nn.Linear(4 * 14 * 14, 8))
    net.input_size = (112, 112)
    graph = Graph(to_onnx(net))
    model = convert_to_ncnn(graph)
    assert [layer.kind for layer in model.layers].count('Gemm') == 2
    model.save(tmp_path / 'net.param')
    np.testing.assert_allclose(open_embedder(tmp_path / 'net.param', threads=1)(faces[::6]), embed(graph, x), atol=1e-4)


def test_layers_are_matched_by_weights(converted, graph):
    matched = match_layers(converted, graph)
    assert sorted(matched.values()) == sorted(layer.name for layer in graph.layers)
    other = NcnnModel([*converted.layers])
    other.layers[1] = copy.deepcopy(other.layers[1])
    other.layers[1].arrays['weight'][0] += 1
    with pytest.raises(NcnnFormatError, match='match no layer of the ONNX graph'):
        match_layers(other, graph)


def test_table_in_ncnn_s_form(int8):
    _, table = int8
    lines = write_table(table).splitlines()
    assert all(re.fullmatch(r'\w+( \d+\.\d+)+', line) for line in lines)
    found = {name: np.float32(values) for name, *values in map(str.split, lines)}
    assert list(found) == [f'{name}_param_0' for name in table] + list(table)
    for name, (scales, scale) in table.items():
        np.testing.assert_allclose(found[f'{name}_param_0'], scales, rtol=1e-4)
        np.testing.assert_allclose(found[name], [scale], rtol=1e-4)


def test_ncnn_really_computes_integers(int8, converted, calibration, graph, x):
    """What the first convolution hands on is an integer times the two scales, plus the bias: no float layer does that."""
    import ncnn
    path, table = int8
    model = NcnnModel.load(path)
    assert all(int8_layers(model).values())
    layer = model.weight_layers[0]
    scales, input_scale = table[layer.name]
    for param, integer in ((path, True), (path.with_name('fp32.param'), False)):
        net = ncnn_net(param, threads=1, packing=False)
        with net.create_extractor() as extractor:
            extractor.input(net.input_names()[0], ncnn.Mat(x[0]))
            output = np.array(extractor.extract(layer.outputs[0])[1])
        sums = (output - layer.arrays['bias'][:, None, None]) * (scales * input_scale)[:, None, None]
        distance = np.abs(sums - np.rint(sums)).mean()
        assert (distance < 0.01) == integer, distance
    expected = np.rint(np.clip(np.rint(x[0] * input_scale), -127, 127))
    patch = np.pad(expected, ((0, 0), (1, 1), (1, 1)))[:, 20:23, 20:23]
    weights = layer.arrays['weight'].reshape(len(scales), 3, 3, 3).astype(int)
    net = ncnn_net(path, threads=1, packing=False)
    with net.create_extractor() as extractor:
        extractor.input(net.input_names()[0], ncnn.Mat(x[0]))
        output = np.array(extractor.extract(layer.outputs[0])[1])[:, 10, 10]
    found = (output - layer.arrays['bias']) * scales * input_scale
    np.testing.assert_allclose(found, np.einsum('chw,ochw->o', patch, weights), atol=0.02)


def test_runtime_agrees_with_simulation(int8, graph, calibration, faces, x):
    found = open_embedder(int8[0], threads=1)(faces[::6])
    simulated = embed(simulate_int8(graph, calibration, SCHEMES['ncnn']), x)
    assert cosines(found, simulated).min() > 0.995
    assert cosines(found, embed(graph, x)).min() > 0.9


def test_winograd_layers_have_six_bits(int8, graph):
    model = NcnnModel.load(int8[0])
    largest = {layer.name: int(np.abs(layer.arrays['weight']).max()) for layer in model.weight_layers}
    strided = {layer.name: layer.number(3, 1) for layer in model.weight_layers}
    dense = [n.name for n in model.weight_layers if n.kind == 'Convolution' and n.number(1) == 3]
    assert {largest[name] for name in dense if strided[name] == 1} == {31}
    assert {largest[name] for name in dense if strided[name] == 2} == {127}


def test_kept_layers_stay_float(converted, graph, calibration, int8, tmp_path, faces):
    keep = [graph.layers[0].name]
    converted.save(tmp_path / 'fp32.param')
    model = quantise_ncnn(NcnnModel.load(tmp_path / 'fp32.param'), make_table(converted, graph, calibration, keep))
    model.save(tmp_path / 'mixed.param')
    layers = int8_layers(NcnnModel.load(tmp_path / 'mixed.param'))
    assert [name for name, integer in layers.items() if not integer] == [model.weight_layers[0].name]
    assert open_embedder(tmp_path / 'mixed.param', threads=1)(faces[:1]).shape == (1, 64)


@pytest.mark.parametrize('body', [
    [nn.Conv2d(8, 16, 3, groups=2), nn.ReLU(), nn.Conv2d(16, 16, 1, groups=2), nn.ReLU(), nn.Conv2d(16, 8, 1)],
    [nn.Flatten(2), nn.Conv1d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv1d(8, 8, 3)]])
def test_groups_and_one_dimension_stay_float(body, faces, x, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 8), nn.ReLU(), *body, nn.Flatten())
    net.input_size = (112, 112)
    graph = Graph(to_onnx(net))
    found = fit_ranges(measure_histograms(graph, faces, PREPROCESS), faces, PREPROCESS, 'minmax')
    model = convert_to_ncnn(graph)
    quantise_ncnn(model, make_table(model, graph, found)).save(tmp_path / 'net.param')
    assert sum(int8_layers(model).values()) == 2 - isinstance(body[0], nn.Flatten)
    expected = embed(simulate_int8(graph, found, SCHEMES['ncnn']), x)
    np.testing.assert_allclose(open_embedder(tmp_path / 'net.param', threads=1)(faces[::6]), expected,
                               atol=0.02 * np.abs(expected).max())


def test_neighbours_hand_on_integers(faces, tmp_path):
    """With ReLU, pnnx fuses the activation into the convolution, and int8 goes straight from one to the next."""
    net = settled('fdfacenet', faces, width=0.25, num_features=64, act='relu')
    graph = Graph(to_onnx(net))
    found = fit_ranges(measure_histograms(graph, faces, PREPROCESS), faces, PREPROCESS, 'entropy')
    model = convert_to_ncnn(graph)
    table = make_table(model, graph, found)
    quantise_ncnn(model, table).save(tmp_path / 'relu.param')
    terms = [layer.number(8) for layer in NcnnModel.load(tmp_path / 'relu.param').weight_layers]
    assert sum(term > 100 for term in terms) == 8  # all but the last convolution before the fully connected layer
    assert cosines(open_embedder(tmp_path / 'relu.param', threads=1)(faces[::6]), embed(graph, PREPROCESS(faces[::6]))
                   ).min() > 0.9


def test_dead_channel_has_a_finite_scale(converted, graph, calibration):
    """An output channel without weights must not get the scale 1 / 0 (ncnn#3022)."""
    layer = graph.layers[0]
    model = graph.copy_model()
    weight = next(t for t in model.graph.initializer if t.name == layer.weight_name)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] = 0
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    dead = NcnnModel([copy.deepcopy(each) for each in converted.layers])
    dead.weight_layers[0].arrays['weight'].reshape(len(values), -1)[0] = 0
    scales, _ = make_table(dead, Graph(model), calibration)[dead.weight_layers[0].name]
    assert np.isfinite(scales).all() and scales[0] == pytest.approx(127e6)


def test_half(converted, tmp_path, faces, graph, x):
    converted.save(tmp_path / 'a.param')
    NcnnModel.load(tmp_path / 'a.param').to_half().save(tmp_path / 'h.param')
    ratio = (tmp_path / 'h.bin').stat().st_size / (tmp_path / 'a.bin').stat().st_size
    assert ratio < 0.52
    assert cosines(open_embedder(tmp_path / 'h.param', threads=1)(faces[::6]), embed(graph, x)).min() > 0.9999


@pytest.mark.parametrize(('damage', 'message'), [
    (lambda p, b: p.write_text('7767516\n'), 'instead of 7767517'),
    (lambda p, b: p.write_text('\n'.join(p.read_text().splitlines()[:-2])), 'cut off'),
    (lambda p, b: p.write_text(p.read_text() + 'Convolution x one 1 a b\n'), 'not a layer'),
    (lambda p, b: b.write_bytes(b.read_bytes()[:-100]), 'cut off'),
    (lambda p, b: b.write_bytes(b.read_bytes() + b'1234'), 'left over'),
    (lambda p, b: b.write_bytes(b'\x01\x02\x03\x04' + b.read_bytes()[4:]), 'storage tag'),
])
def test_damaged_files(converted, tmp_path, damage, message):
    converted.save(tmp_path / 'a.param')
    damage(tmp_path / 'a.param', tmp_path / 'a.bin')
    with pytest.raises(NcnnFormatError, match=message):
        NcnnModel.load(tmp_path / 'a.param')
