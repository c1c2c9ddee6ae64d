"""8 bits and FP16 on the CPU: ranges, simulation, equalisation, search."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from plugins.preprocess import FaceError, Preprocess
from tests.nets import cosines, embed
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
from zoo.export.half import half_graph, typed_half_graph
from zoo.export.onnx import to_onnx
from zoo.export.quantize import (
    SCHEMES,
    int8_graph,
    layer_snr,
    onnxruntime_int8_graph,
    simulate_int8,
    weight_amax,
)
from zoo.export.search import Quantiser

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
    def test_every_tensor_and_the_manifest(self, graph, calibration, faces):
        assert set(calibration.amax) == set(graph.activations) and calibration.images == len(faces)
        assert all(0 < calibration.amax[n] <= calibration.absmax[n] for n in calibration.amax)
        assert json.loads(calibration.to_json())['amax'] == calibration.amax
        other = fit_ranges(measure_histograms(graph, faces[:40], PREPROCESS), faces[:40], PREPROCESS, 'entropy')
        assert other.images_sha256 != calibration.images_sha256 and other.sha256 != calibration.sha256

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
        for quantise in (partial(simulate_int8, scheme=SCHEMES['qdq']), int8_graph, onnxruntime_int8_graph):
            with pytest.raises(KeyError, match=r"no layers \['convolution'\]"):  # a mistyped one would be quantised
                quantise(graph, calibration, keep=['convolution'])

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
        tensor = next(layer.input for layer in graph.layers if layer.groups > 1)  # read by a depthwise layer: made all alike
        before, after = (dict(Activations(each, (tensor,))(PREPROCESS(faces)))[tensor] for each in (graph, equal))
        ranges = np.abs(after).max((0, 2, 3))
        assert np.ptp(np.abs(before).max((0, 2, 3))) > 0.2 and ranges == pytest.approx(ranges[0], rel=1e-3)

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
        model = quantiser.graph.copy_model()
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
