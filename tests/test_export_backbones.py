"""The export battery: every backbone folds, and runs in onnxruntime and NCNN with PyTorch's numbers on real faces."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from plugins.preprocess import Preprocess, l2_normalise
from plugins.registry import list_backbones
from tests.nets import build, inputs_for, settle
from zoo.export.fold import fold_batchnorm
from zoo.export.graph import Graph
from zoo.export.half import typed_half_graph
from zoo.export.lint import lint
from zoo.export.ncnn import export_ncnn
from zoo.export.onnx import export_onnx, to_onnx
from zoo.export.target import target
from zoo.runtime.ncnn import ncnn_net
from zoo.runtime.onnx import onnx_session
from zoo.trace import trace_calls

NAMES = list_backbones()
MIN_COSINE = 0.9999


@pytest.fixture(scope='module')
def settled(crops):
    images = torch.from_numpy(Preprocess()(crops[:3]))

    @functools.cache
    def make(name: str):
        """A settled network in evaluation mode, three faces and their embeddings, which differ between faces."""
        model = build(name)
        x = inputs_for(model, images)
        settle(model, x)
        with torch.inference_mode():
            expected = model(x).numpy()
        unit = l2_normalise(expected)
        assert (unit @ unit.T)[np.triu_indices(3, 1)].max() < 0.9
        return model, x.numpy(), expected
    return make


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert (l2_normalise(found) * l2_normalise(expected)).sum(1).min() > MIN_COSINE
    np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize('name', NAMES)
def test_folding_changes_nothing(name, settled):
    model, x, expected = settled(name)
    folded = fold_batchnorm(model)
    with torch.inference_mode():
        assert_same(folded(torch.from_numpy(x)).numpy(), expected)
    calls = trace_calls(folded, (1, 3, *model.input_size))
    behind = [call.name for call in calls if isinstance(call.module, nn.BatchNorm1d | nn.BatchNorm2d)
              and call.producer is not None and isinstance(calls[call.producer].module, nn.Conv2d | nn.Linear)]
    assert not behind


class Odd(nn.Module):
    """Two convolutions with a BatchNorm behind each, and a fully connected layer with one that learns nothing."""

    input_size = (8, 8)

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc, self.out = nn.Linear(8, 4), nn.BatchNorm1d(4, affine=False)
        for norm in (self.norm, self.last, self.out):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = self.first(x)
        y = self.second(self.norm(x).relu())
        if self.way == 'skip':  # reads the first convolution as well as its BatchNorm does
            y = y + x
        elif self.way == 'in place':
            y += x
        elif self.way == 'activation':
            y = nn.functional.relu(y, inplace=True)
        return self.out(self.fc(self.last(y).mean((2, 3))))


@pytest.mark.parametrize(('way', 'left'), [('plain', set()), ('skip', {'norm', 'last'}), ('in place', {'norm', 'last'}),
                                           ('activation', {'last'})])
def test_folding_leaves_a_batchnorm_that_is_not_the_only_reader(way, left):
    torch.manual_seed(0)
    model, x = Odd(way).eval(), torch.randn(2, 3, 8, 8)
    folded = fold_batchnorm(model)
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), model(x), atol=1e-4, rtol=1e-4)
    assert {name for name, m in folded.named_modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)} == left


def test_folding_leaves_what_it_cannot_tell():
    """Statistics of the batch, positions instead of channels, weights that are worked on first, a norm that does more."""
    class Scaled(nn.Conv2d):
        def forward(self, x):
            return nn.functional.conv2d(x, self.weight / self.weight.std(), self.bias, padding=1)

    class Activated(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    model = nn.Sequential(Scaled(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False),
                          nn.Conv2d(4, 4, 1), Activated(4), nn.Flatten(2), nn.Linear(64, 4), nn.BatchNorm1d(4))
    model.input_size = (8, 8)
    model[1].running_var.fill_(4), model[8].running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(fold_batchnorm(model)(x), model.eval()(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('name', NAMES)
def test_onnx(name, settled, tmp_path):
    import onnx
    model, x, expected = settled(name)
    export_onnx(model, tmp_path / 'net.onnx')
    assert all(entry.version <= 13 for entry in onnx.load(tmp_path / 'net.onnx').opset_import)
    session = onnx_session(tmp_path / 'net.onnx', threads=1)
    for batch in (3, 1):
        found = np.concatenate([session.run(None, {'image': x[i:i + batch]})[0] for i in range(0, 3, batch)])
        assert_same(found, expected)


@pytest.mark.parametrize('name', ['mobilenet_v2', 'lightcnn9', 'hrfacenet_w18'])
def test_constants_are_weights_like_others(name, settled):
    """Bounds of a ReLU6, a convolution's fixed weights, factors of a Resize: in FP16 types, and to the checks of a target."""
    model, x, expected = settled(name)
    graph = Graph(to_onnx(model))
    assert not [finding for finding in lint(graph, target('jetson-tx2')) if finding.level == 'error']
    assert sum(node.op_type == 'Conv' for node in graph.nodes) == sum(layer.op == 'Conv' for layer in graph.layers)
    session = onnx_session(typed_half_graph(graph).SerializeToString(), threads=1)
    assert (l2_normalise(session.run(None, {'image': x})[0]) * l2_normalise(expected)).sum(1).min() > 0.99


@pytest.mark.parametrize('name', [name for name in NAMES if 'ncnn' in zoo.card(name).deployable])
def test_ncnn(name, settled, tmp_path):
    import ncnn
    model, x, expected = settled(name)
    export_ncnn(model, tmp_path, 'net')
    net = ncnn_net(tmp_path / 'net.param', threads=1)
    rows = []
    for image in x:
        with net.create_extractor() as extractor:
            extractor.input(net.input_names()[0], ncnn.Mat(image))
            status, output = extractor.extract(net.output_names()[-1])
            assert status == 0
            rows.append(np.array(output).reshape(-1))
    assert_same(np.stack(rows), expected)


def test_folding_covers_linear_depthwise_and_plain_norms():
    """What the families use besides convolutions with bias-free BatchNorm, with statistics far from 0 and 1."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8, affine=False), nn.ReLU(),
                        nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8), nn.Flatten(1),
                        nn.Linear(8 * 36, 5), nn.BatchNorm1d(5))
    for module in net.modules():
        for tensor in (getattr(module, 'running_mean', None), getattr(module, 'running_var', None)):
            if tensor is not None:
                tensor.uniform_(0.2, 3)
    net.input_size = (8, 8)
    x = torch.randn(4, 3, 8, 8)
    folded = fold_batchnorm(net)
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), net.eval()(x))
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
