"""8 bits and FP16 on the CPU: ranges, simulation, equalisation, search; NCNN's integers for real."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from plugins.preprocess import FaceError, Preprocess, l2_normalise
from zoo.export.calibrate import (
    METHODS,
    Calibration,
    CalibrationError,
    Histogram,
    calibration_faces,
    fit_ranges,
    measure_histograms,
)
from zoo.export.equalise import equalise
from zoo.export.graph import Activations, Graph, GraphError
from zoo.export.ncnn import convert_to_ncnn
from zoo.export.ncnn_int8 import int8_layers, make_table, match_layers, quantise_ncnn, read_table, write_table
from zoo.export.ncnn_model import NcnnFormatError, NcnnModel
from zoo.export.onnx import to_onnx
from zoo.export.quantize import (
    SCHEMES,
    half_graph,
    int8_graph,
    layer_snr,
    onnxruntime_int8_graph,
    simulate_int8,
    typed_half_graph,
    weight_amax,
)
from zoo.export.search import Quantiser
from zoo.runtime.ncnn import ncnn_net

PREPROCESS = Preprocess()


@pytest.fixture(scope='module')
def graph(small_net) -> Graph:
    return Graph(to_onnx(small_net))


@pytest.fixture(scope='module')
def histograms(graph, faces):
    return measure_histograms(graph, faces, PREPROCESS)


@pytest.fixture(scope='module')
def calibration(histograms, faces) -> Calibration:
    return fit_ranges(histograms, faces, PREPROCESS, 'entropy')


@pytest.fixture(scope='module')
def x(faces) -> np.ndarray:
    return PREPROCESS(faces[::6])


def embed(model, x: np.ndarray) -> np.ndarray:
    graph = model if isinstance(model, Graph) else Graph(model)
    return dict(Activations(graph, (graph.output,))(x))[graph.output]


def cosines(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    unit = l2_normalise(expected)
    similarity = unit @ unit.T
    assert np.median(similarity[~np.eye(len(unit), dtype=bool)]) < 0.9, 'the net does not tell faces apart'
    return (l2_normalise(found) * unit).sum(1)


class TestHistogram:
    def test_counts_what_numpy_counts(self):
        values = np.random.default_rng(0).standard_normal((4, 3, 50, 50)).astype(np.float32)
        histogram = Histogram()
        for batch in values:
            histogram.add(batch)
        assert histogram.counts.sum() == values.size and histogram.absmax == np.abs(values).max()
        expected, _ = np.histogram(np.abs(values), bins=2048, range=(0, 2048 * histogram.width))
        assert np.abs(np.cumsum(expected) - np.cumsum(histogram.counts)).max() <= 2  # float32 at the edges of bins

    def test_range_doubles(self):
        histogram = Histogram()
        histogram.add(np.full(100, 0.01, np.float32))
        histogram.add(np.array([10.0], np.float32))
        assert histogram.counts.sum() == 101 and histogram.width * 2048 > 10
        assert histogram.counts[int(10 / histogram.width)] == 1

    def test_nan_is_refused(self):
        with pytest.raises(CalibrationError, match='not finite'):
            Histogram().add(np.array([1.0, np.nan], np.float32))

    def test_methods_on_an_outlier(self):
        """One value a thousand times larger than the rest must not decide."""
        histogram = Histogram()
        histogram.add(np.random.default_rng(0).standard_normal(100_000).astype(np.float32))
        histogram.add(np.array([1000.0], np.float32))
        amax = {name: method(histogram) for name, method in METHODS.items()}
        assert amax['minmax'] == 1000
        # 1000 / 2048 is a coarse bin, so "about 4" is what a method can find
        assert amax['percentile'] < 200 and amax['entropy'] < 200
        # clipping it would cost 996 squared, more than all others rounded to zero (100 000 of variance 1): mse keeps it
        assert amax['mse'] == 1000

    def test_mse_is_the_least_error(self):
        values = np.random.default_rng(0).laplace(size=200_000).astype(np.float32)
        histogram = Histogram()
        histogram.add(values)

        def error(amax: float) -> float:
            step = amax / 127
            return float(np.square(np.clip(np.rint(values / step), -127, 127) * step - values).mean())

        best = METHODS['mse'](histogram)
        assert error(best) <= 1.02 * min(error(a) for a in np.linspace(0.2, 1, 60) * histogram.absmax)


class TestCalibration:
    def test_every_tensor_and_the_manifest(self, graph, calibration, faces, tmp_path):
        assert set(calibration.amax) == set(graph.activations) and calibration.images == len(faces)
        assert all(0 < calibration.amax[n] <= calibration.absmax[n] for n in calibration.amax)
        calibration.save(tmp_path / 'c.json')
        again = Calibration.load(tmp_path / 'c.json')
        assert again == calibration and again.sha256 == calibration.sha256
        other = fit_ranges(measure_histograms(graph, faces[:40], PREPROCESS), faces[:40], PREPROCESS, 'entropy')
        assert other.images_sha256 != calibration.images_sha256 and other.sha256 != calibration.sha256

    def test_damaged_file(self, calibration, tmp_path):
        calibration.save(tmp_path / 'c.json')
        data = json.loads((tmp_path / 'c.json').read_text())
        data['amax'][next(iter(data['amax']))] = 0
        (tmp_path / 'c.json').write_text(json.dumps(data))
        with pytest.raises(CalibrationError, match='must be positive'):
            Calibration.load(tmp_path / 'c.json')
        (tmp_path / 'c.json').write_text('{')
        with pytest.raises(CalibrationError, match='not a calibration'):
            Calibration.load(tmp_path / 'c.json')

    def test_missing_and_few_images(self, graph, faces, tmp_path):
        with pytest.raises(FileNotFoundError, match='nowhere'):
            calibration_faces(tmp_path / 'nowhere', 10, 112)
        (tmp_path / 'empty').mkdir()
        with pytest.raises(FaceError, match='no images'):
            calibration_faces(tmp_path / 'empty', 10, 112)
        with pytest.raises(CalibrationError, match='6 faces to calibrate on'):
            measure_histograms(graph, faces[:6], PREPROCESS)
        with pytest.raises(CalibrationError, match='35 faces to calibrate on; at least 36 are needed'):
            Quantiser(graph, faces[:35], PREPROCESS)
        assert Quantiser(graph, faces[:36], PREPROCESS).histograms

    def test_dead_tensor_is_clamped(self, histograms, faces):
        dead = Histogram()
        dead.add(np.zeros(10, np.float32))
        found = fit_ranges({**histograms, 'dead': dead}, faces, PREPROCESS, 'entropy')
        assert found.dead == ('dead',) and found.amax['dead'] == 1e-6

    def test_of_another_model(self, graph, calibration):
        names = dict(zip(calibration.amax, [f'x{i}' for i in range(99)], strict=False))
        other = Calibration('entropy', {names[k]: v for k, v in calibration.amax.items()}, {}, 1, '', {})
        with pytest.raises(CalibrationError, match='belongs to another model'):
            simulate_int8(graph, other, SCHEMES['qdq'])

    def test_unknown_method(self, histograms, faces):
        with pytest.raises(CalibrationError, match='entropy, percentile, mse, minmax'):
            fit_ranges(histograms, faces, PREPROCESS, 'aciq')


class TestSimulation:
    def test_rounding_of_one_layer_by_hand(self, graph, calibration, x):
        """The first convolution of the simulation equals integer arithmetic done here."""
        layer = graph.layers[0]
        scale_x, scale_w = calibration.amax[layer.input] / 127, weight_amax(layer.weight) / 127
        integers = np.clip(np.rint(x / scale_x), -128, 127)
        weights = np.rint(layer.weight / scale_w[:, None, None, None])
        patch = np.pad(integers, ((0, 0), (0, 0), (1, 1), (1, 1)))[:, :, 20:23, 20:23]
        bias = graph.initializers[next(n for n in graph.nodes if n.name == layer.name).input[2]]
        expected = np.einsum('nchw,ochw->no', patch, weights) * scale_x * scale_w + bias
        found = dict(Activations(Graph(simulate_int8(graph, calibration, SCHEMES['qdq'])), (layer.output,))(x))[layer.output]
        np.testing.assert_allclose(found[:, :, 10, 10], expected, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize('scheme', SCHEMES)
    def test_embeddings_survive(self, graph, calibration, x, scheme):
        found = cosines(embed(simulate_int8(graph, calibration, SCHEMES[scheme]), x), embed(graph, x))
        assert found.min() > 0.9 and found.max() < 0.99999

    def test_keeping_all_layers_is_exact(self, graph, calibration, x):
        every = [layer.name for layer in graph.layers]
        np.testing.assert_array_equal(embed(simulate_int8(graph, calibration, SCHEMES['qdq'], every), x), embed(graph, x))
        with pytest.raises(KeyError, match='no layers'):
            simulate_int8(graph, calibration, SCHEMES['qdq'], ['convolution'])

    def test_explicit_graph_is_the_simulation(self, graph, calibration, x):
        explicit = int8_graph(graph, calibration)
        np.testing.assert_allclose(embed(explicit, x), embed(simulate_int8(graph, calibration, SCHEMES['qdq']), x),
                                   rtol=1e-4, atol=1e-4)
        constants = {t.name: onnx.numpy_helper.to_array(t) for t in explicit.graph.initializer}
        pairs = [n for n in explicit.graph.node if n.op_type == 'QuantizeLinear']
        assert len(pairs) == 2 * len(graph.layers)
        for node in pairs:
            assert len(node.input) == 3 and not constants[node.input[2]].any() and constants[node.input[2]].dtype == np.int8
            assert (constants[node.input[1]] > 0).all()
        assert not any(n.input[2] in (q.output[0] for q in pairs) for n in explicit.graph.node if n.op_type in ('Conv', 'Gemm'))

    def test_simulation_is_what_onnxruntime_rounds(self, graph, calibration, x):
        """Outputs of convolutions, too."""
        model, simulated = onnxruntime_int8_graph(graph, calibration), simulate_int8(graph, calibration, SCHEMES['onnxruntime'])
        tensor = graph.layers[2].output  # behind the first layer in 8 bits
        found, expected, exact = (dict(Activations(Graph(each), (tensor,))(x))[tensor]
                                  for each in (model, simulated, graph.model))
        assert np.abs(found - expected).mean() < 0.1 * np.abs(found - exact).mean()

    def test_half(self, graph, x):
        exact = embed(graph, x)
        simulated, typed = embed(half_graph(graph), x), embed(typed_half_graph(graph), x)
        for found in (simulated, typed):
            assert cosines(found, exact).min() > 0.9999 and not np.array_equal(found, exact)
        every = [node.name for node in graph.nodes]
        np.testing.assert_array_equal(embed(half_graph(graph, every), x), exact)
        np.testing.assert_allclose(embed(typed_half_graph(graph, every[2:4]), x), exact, rtol=0.05, atol=0.02)

    def test_snr_falls_along_the_network(self, graph, calibration, x):
        ratios = layer_snr(graph, simulate_int8(graph, calibration, SCHEMES['tensorrt']), x)
        values = list(ratios.values())
        assert list(ratios) == [layer.name for layer in graph.layers]
        assert values[0] > 35 and values[-1] < values[0] and min(values) > 5

    def test_equalisation_changes_nothing_but_ranges(self, graph, faces, x):
        equal = equalise(graph, faces, PREPROCESS)
        np.testing.assert_allclose(embed(equal, x), embed(graph, x), rtol=2e-3, atol=2e-3)
        assert any(not np.array_equal(a.weight, b.weight) for a, b in zip(graph.layers, equal.layers, strict=True))

    @pytest.mark.parametrize('body', [
        [nn.Conv2d(3, 8, 3, 8), nn.Hardswish(), nn.Conv2d(8, 8, 1), nn.Hardswish()],
        [nn.Conv2d(3, 8, 3, 8), nn.Flatten(2), nn.Conv1d(8, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 1)]])
    def test_networks_with_nothing_or_something_else_to_equalise(self, body, faces, x):
        """No ReLU between two convolutions, as in MobileNetV3, or convolutions of one dimension."""
        torch.manual_seed(0)
        net = nn.Sequential(*body, nn.Flatten(), nn.LazyLinear(8))
        net(torch.zeros(1, 3, 112, 112))
        net.input_size = (112, 112)
        graph = Graph(to_onnx(net))
        quantiser = Quantiser(graph, faces, PREPROCESS)
        np.testing.assert_allclose(embed(quantiser.graph, x), embed(graph, x), rtol=2e-3, atol=2e-3)
        assert quantiser.plan('ncnn', 'minmax').cosine > 0.9

    def test_search_keeps_the_harmful_layer(self, graph, faces):
        """A layer with one input channel of huge range and small weights: the search must find it, and nothing else."""
        quantiser = Quantiser(graph, faces, PREPROCESS)
        before, victim = quantiser.graph.layers[2:4]
        model = type(quantiser.graph.model).FromString(quantiser.graph.model.SerializeToString())
        tensors = {t.name: t for t in model.graph.initializer}
        bias = next(node.input[2] for node in model.graph.node if node.name == before.name)
        for name, where, factor in ((before.weight_name, np.s_[0], 300), (bias, np.s_[0], 300),
                                    (victim.weight_name, np.s_[:, 0], 1 / 300)):  # together they change nothing
            values = onnx.numpy_helper.to_array(tensors[name]).copy()
            values[where] *= factor
            tensors[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
        assert quantiser.cosines(model).min() > 0.99999
        quantiser.graph = Graph(model)
        plan = quantiser.plan('qdq', 'minmax', target=0.9999)
        assert max(plan.harm, key=plan.harm.get) == victim.name and plan.keep[0] == victim.name
        assert plan.int8_macs < 1 and victim.name not in plan.culprit
        assert quantiser.plan('qdq', 'minmax', target=0).keep == ()

    def test_graph_errors(self, tmp_path, graph):
        with pytest.raises(FileNotFoundError):
            Graph.load(tmp_path / 'm.onnx')
        (tmp_path / 'm.onnx').write_bytes(graph.model.SerializeToString()[:4000])
        with pytest.raises(GraphError, match='not a whole ONNX'):
            Graph.load(tmp_path / 'm.onnx')


class TestNcnn:
    @pytest.fixture(scope='class')
    def converted(self, graph) -> NcnnModel:
        return convert_to_ncnn(graph)

    @pytest.fixture(scope='class')
    def int8(self, converted, graph, calibration, tmp_path_factory):
        """(path of the int8 model, its table)."""
        folder = tmp_path_factory.mktemp('ncnn')
        converted.save(folder / 'fp32.param')
        table = make_table(converted, graph, calibration)
        quantise_ncnn(NcnnModel.load(folder / 'fp32.param'), table).save(folder / 'int8.param')
        return folder / 'int8.param', table

    def test_round_trip(self, converted, tmp_path):
        converted.save(tmp_path / 'a.param')
        NcnnModel.load(tmp_path / 'a.param').save(tmp_path / 'b.param')
        for suffix in ('.param', '.bin'):
            assert (tmp_path / f'a{suffix}').read_bytes() == (tmp_path / f'b{suffix}').read_bytes()

    def test_what_ncnn_does_not_have_is_named(self):
        net = nn.Sequential(nn.Conv2d(3, 8, 3, 8), nn.GroupNorm(2, 8), nn.Flatten())
        net.input_size = (112, 112)
        with pytest.raises(NcnnFormatError, match=r'^NCNN has nothing for nn\.InstanceNorm1d; use other layers'):
            convert_to_ncnn(Graph(to_onnx(net)))

    def test_products_of_matrices(self, tmp_path, faces, x):
        """What pnnx makes of fully connected layers over positions, with and without a bias, between layers of other kinds."""
        from zoo.runtime import open_embedder

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

    def test_layers_are_matched_by_weights(self, converted, graph):
        matched = match_layers(converted, graph)
        assert sorted(matched.values()) == sorted(layer.name for layer in graph.layers)
        other = NcnnModel([*converted.layers])
        import copy
        other.layers[1] = copy.deepcopy(other.layers[1])
        other.layers[1].arrays['weight'][0] += 1
        with pytest.raises(NcnnFormatError, match='not those of any layer'):
            match_layers(other, graph)

    def test_table_in_ncnn_s_form(self, int8):
        _, table = int8
        text = write_table(table)
        again = read_table(text)
        assert list(again) == list(table)
        for name, (scales, scale) in table.items():
            np.testing.assert_allclose(again[name][0], scales, rtol=1e-4)
            assert again[name][1] == pytest.approx(scale, rel=1e-4)
        kept = next(iter(table))
        lines = [f'#{line}' if line.startswith(kept) else line for line in text.splitlines()]
        assert kept not in read_table('\n'.join(lines))
        with pytest.raises(NcnnFormatError, match='line 1'):
            read_table('conv_0 inf\n')
        with pytest.raises(NcnnFormatError, match='not of both'):
            read_table('conv_0 12.5\n')

    def test_ncnn_really_computes_integers(self, int8, converted, calibration, graph, x):
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

    def test_runtime_agrees_with_simulation(self, int8, graph, calibration, faces, x):
        from zoo.runtime import open_embedder
        found = open_embedder(int8[0], threads=1)(faces[::6])
        simulated = embed(simulate_int8(graph, calibration, SCHEMES['ncnn']), x)
        assert cosines(found, simulated).min() > 0.995
        assert cosines(found, embed(graph, x)).min() > 0.9

    def test_winograd_layers_have_six_bits(self, int8, graph):
        model = NcnnModel.load(int8[0])
        largest = {layer.name: int(np.abs(layer.arrays['weight']).max()) for layer in model.weight_layers}
        strided = {layer.name: layer.number(3, 1) for layer in model.weight_layers}
        dense = [n.name for n in model.weight_layers if n.kind == 'Convolution' and n.number(1) == 3]
        assert {largest[name] for name in dense if strided[name] == 1} == {31}
        assert {largest[name] for name in dense if strided[name] == 2} == {127}

    def test_kept_layers_stay_float(self, converted, graph, calibration, int8, tmp_path, faces):
        keep = [graph.layers[0].name]
        converted.save(tmp_path / 'fp32.param')
        model = quantise_ncnn(NcnnModel.load(tmp_path / 'fp32.param'), make_table(converted, graph, calibration, keep))
        model.save(tmp_path / 'mixed.param')
        layers = int8_layers(NcnnModel.load(tmp_path / 'mixed.param'))
        assert [name for name, integer in layers.items() if not integer] == [model.weight_layers[0].name]
        from zoo.runtime import open_embedder
        assert open_embedder(tmp_path / 'mixed.param', threads=1)(faces[:1]).shape == (1, 64)

    @pytest.mark.parametrize('body', [
        [nn.Conv2d(8, 16, 3, groups=2), nn.ReLU(), nn.Conv2d(16, 16, 1, groups=2), nn.ReLU(), nn.Conv2d(16, 8, 1)],
        [nn.Flatten(2), nn.Conv1d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv1d(8, 8, 3)]])
    def test_groups_and_one_dimension_stay_float(self, body, faces, x, tmp_path):
        from zoo.runtime import open_embedder
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

    def test_neighbours_hand_on_integers(self, faces, tmp_path):
        """With ReLU, pnnx fuses the activation into the convolution, and int8 goes straight from one to the next."""
        from conftest import settled

        from zoo.runtime import open_embedder
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

    def test_dead_channel_has_a_finite_scale(self, converted, graph, calibration):
        """An output channel without weights must not get the scale 1 / 0 (ncnn#3022)."""
        import copy
        layer = graph.layers[0]
        model = type(graph.model).FromString(graph.model.SerializeToString())
        weight = next(t for t in model.graph.initializer if t.name == layer.weight_name)
        values = onnx.numpy_helper.to_array(weight).copy()
        values[0] = 0
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        dead = NcnnModel([copy.deepcopy(each) for each in converted.layers])
        dead.weight_layers[0].arrays['weight'].reshape(len(values), -1)[0] = 0
        scales, _ = make_table(dead, Graph(model), calibration)[dead.weight_layers[0].name]
        assert np.isfinite(scales).all() and scales[0] == pytest.approx(127e6)

    def test_half(self, converted, tmp_path, faces, graph, x):
        from zoo.runtime import open_embedder
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
    def test_damaged_files(self, converted, tmp_path, damage, message):
        converted.save(tmp_path / 'a.param')
        damage(tmp_path / 'a.param', tmp_path / 'a.bin')
        with pytest.raises(NcnnFormatError, match=message):
            NcnnModel.load(tmp_path / 'a.param')
