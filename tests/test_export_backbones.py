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
from zoo.export.ncnn import export_ncnn
from zoo.export.onnx import export_onnx
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
