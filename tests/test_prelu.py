"""The rewrite that removes onnxruntime's PRelu nodes: exact on real faces, in every position that a PReLU can have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from plugins.preprocess import Preprocess
from zoo.runtime.prelu import replace_prelu

onnx = pytest.importorskip('onnx')
ort = pytest.importorskip('onnxruntime')


def run(model, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


class Odd(nn.Module):
    """PReLUs before a convolution, a grouped one, an addition, a flattening and as an output; one slope is zero."""

    input_size = (8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 8, 1)
        self.acts = nn.ModuleList(nn.PReLU(c) for c in (4, 8, 8))
        for act in self.acts:
            act.weight.data.uniform_(-0.5, 1.5)
        self.acts[1].weight.data[0] = 0.0

    def forward(self, x):
        x = self.acts[1](self.second(self.acts[0](self.first(x))))
        return self.acts[2](self.third(x)) + x


def exported(model: nn.Module, path):
    from zoo.export.onnx import export_onnx
    export_onnx(model, path)
    return onnx.load(str(path))


def test_every_position(tmp_path):
    torch.manual_seed(0)
    model = exported(Odd().eval(), tmp_path / 'odd.onnx')
    x = np.random.default_rng(0).normal(0, 2, (3, 3, 8, 8)).astype(np.float32)
    before = run(model, x)
    assert replace_prelu(model) == 3
    assert not [node for node in model.graph.node if node.op_type == 'PRelu']
    onnx.checker.check_model(model)
    assert before.std() > 0.1
    np.testing.assert_allclose(run(model, x), before, atol=1e-5)


@pytest.mark.parametrize('shape', [(8, 1, 1), (1, 8, 1, 1), (1, 1, 1), (1, 1, 1, 1), (1,)])
def test_slope_that_channels_share(shape):
    """One slope for all channels, as PyTorch's PReLU() has it, stays a PRelu; one a channel is rewritten."""
    helper, rng = onnx.helper, np.random.default_rng(0)
    values = {'w': rng.normal(size=(8, 3, 1, 1)), 'slope': rng.uniform(0.1, 0.9, shape)}
    nodes = [helper.make_node('Conv', ['image', 'w'], ['x'], 'conv'), helper.make_node('PRelu', ['x', 'slope'], ['out'], 'act')]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ['N', channels, 4, 4])
            for name, channels in (('image', 3), ('out', 8))]
    weights = [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    model = helper.make_model(helper.make_graph(nodes, 'net', ends[:1], ends[1:], weights),
                              opset_imports=[helper.make_opsetid('', 13)], ir_version=7)
    x = rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
    before = run(model, x)
    assert replace_prelu(model) == (8 in shape)
    np.testing.assert_allclose(run(model, x), before, atol=1e-5)


@pytest.mark.parametrize('name', ['fdfacenet', 'mobilefacenet'])
def test_exact_on_real_faces(name, tmp_path, crops):
    model = zoo.load(name) if zoo.card(name).weights else zoo.create(name).eval()
    for module in model.modules():  # untrained slopes are all alike, which would hide a wrong channel
        if isinstance(module, nn.PReLU) and not zoo.card(name).weights:
            module.weight.data.uniform_(0.05, 0.6)
    graph = exported(model, tmp_path / 'net.onnx')
    x = Preprocess()(crops)
    before = run(graph, x)
    assert replace_prelu(graph) > 5
    after = run(graph, x)
    cosine = (before * after).sum(1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
    others = np.corrcoef(before)[np.triu_indices(len(before), 1)]
    assert others.max() < 0.999 and cosine.min() > 0.999999


@pytest.mark.parametrize('options', [{}, {'providers': ['CPUExecutionProvider']}])
def test_files_open_without_prelu(recogniser_file, crops, options, monkeypatch):
    from zoo.runtime import open_embedder
    replaced = []
    monkeypatch.setattr('zoo.runtime.prelu.replace_prelu', lambda model: replaced.append(replace_prelu(model)) or replaced[-1])
    embedder = open_embedder(recogniser_file, threads=1, **options)
    assert replaced and replaced[0] > 5
    nodes = [node.op_type for node in onnx.load(str(recogniser_file)).graph.node]
    assert 'PRelu' in nodes  # the file keeps them, for TensorRT and NCNN
    np.testing.assert_allclose(embedder(crops), run(onnx.load(str(recogniser_file)), Preprocess()(crops)), atol=1e-4)
