"""Foreign checkpoints: converted exactly by structure, or refused with the first tensor that does not fit."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zoo
from zoo.convert import Misfit, convert_state
from zoo.evaluate.verification import verify
from zoo.mxnet import MXNetError, read_mxnet, read_params
from zoo.runtime.torch import TorchEmbedder
from zoo.weights import WeightsError

TEACHER = 'data/teachers/mobilefacenet_y1-0000.params'


def foreign(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of ``model`` as another project would call it, layers in the same order."""
    names: dict[str, str] = {}
    return {f'{names.setdefault(key.rpartition(".")[0], f"layer{len(names)}.op")}.{key.rpartition(".")[2]}': value
            for key, value in model.state_dict().items()}


@pytest.fixture(scope='module')
def source():
    torch.manual_seed(0)
    model = zoo.create('mobilefacenet', num_features=128).eval()
    for tensor in model.state_dict().values():
        if tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    return model


def same(model: nn.Module, source: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), source.state_dict().values(), strict=True))


def test_names_do_not_matter(source, tmp_path):
    state = foreign(source)
    linear = next(key for key, value in state.items() if value.shape == (128, 512))
    forms = {
        'names.pth': state,
        'ddp.pth': {f'module.{key}': value for key, value in state.items()},
        'old.pth': {key: value for key, value in state.items() if 'num_batches' not in key},
        'conv.pth': {**state, linear: state[linear][..., None, None]},
        'xiaoccer.ckpt': {'epoch': 1, 'net_state_dict': state},
        'facex.pt': {'epoch': 1, 'batch_id': 2, 'state_dict': {**{f'backbone.{key}': value for key, value in state.items()},
                                                              'head.weight': torch.zeros(128, 10)}},
    }
    for name, form in forms.items():
        torch.save(form, tmp_path / name)
        model = zoo.load('mobilefacenet', weights=tmp_path / name)
        assert model.num_features == 128 and same(model, source), name


@pytest.mark.parametrize(('change', 'message'), [
    (lambda s: s.pop('layer2.op.weight'), r"layer 'layer3.op' has|tensor layer3.op.weight is"),
    (lambda s: s.update({'layer1.op.weight': torch.zeros(32)}), r'layer1.op.weight is \(32,\); features.0.1.weight'),
    (lambda s: s.update({'fc.weight': torch.zeros(10, 128)}), 'tensor fc.weight has no place'),
    (lambda s: [s.pop(key) for key in list(s)[-5:]], 'ends after'),
])
def test_first_misfit_is_named(source, tmp_path, change, message):
    state = foreign(source)
    change(state)
    torch.save(state, tmp_path / 'x.pth')
    with pytest.raises(WeightsError, match=message):
        zoo.load('mobilefacenet', weights=tmp_path / 'x.pth', num_features=128)


def test_lost_order_is_refused(source, tmp_path):
    from safetensors.torch import save_file
    state = foreign(source)
    torch.save(dict(sorted(state.items())), tmp_path / 'sorted.pth')
    with pytest.raises(WeightsError, match='sorted by name'):
        zoo.load('mobilefacenet', weights=tmp_path / 'sorted.pth')
    save_file(state, tmp_path / 'x.safetensors')
    with pytest.raises(WeightsError, match='does not keep the order'):
        zoo.load('mobilefacenet', weights=tmp_path / 'x.safetensors')


def test_weights_of_another_network_are_refused(tmp_path):
    from zoo.weights import save_weights
    save_weights(tmp_path / 'a.safetensors', zoo.create('fdfacenet', width=0.25), 'fdfacenet', {'width': 0.25})
    with pytest.raises(WeightsError, match="weights of 'fdfacenet', asked for 'nfacenet'"):
        zoo.load('nfacenet', weights=tmp_path / 'a.safetensors')


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.PReLU(4), nn.Flatten(1),
                         nn.Linear(4 * 36, 5, bias=False), nn.BatchNorm1d(5)).eval()


def test_bias_and_missing_scale_are_bridged_exactly():
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.PReLU(4), nn.Flatten(1),
                           nn.Linear(4 * 36, 5), nn.BatchNorm1d(5, affine=False)).eval()
    for norm in (theirs[1], theirs[5]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    ours = net()
    ours.load_state_dict(convert_state(ours, foreign(theirs)))
    x = torch.randn(2, 3, 6, 6)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))
    with pytest.raises(Misfit, match='no place'):  # a bias that no BatchNorm takes up
        convert_state(nn.Sequential(nn.Linear(2, 2, bias=False)), {'a.weight': torch.zeros(2, 2), 'a.bias': torch.zeros(2)})


# a graph as MXNet writes it: preprocessing, convolution, BatchNorm, PReLU, fully connected, BatchNorm with fixed scale
NODES = [('null', 'data', [], {}), ('_minus_scalar', 'minus', [0], {'scalar': '127.5'}),
         ('_mul_scalar', 'mul', [1], {'scalar': '0.0078125'}), ('null', 'conv_weight', [], {}),
         ('Convolution', 'conv', [2, 3], {'no_bias': 'True'}), ('null', 'bn_gamma', [], {}), ('null', 'bn_beta', [], {}),
         ('null', 'bn_moving_mean', [], {}), ('null', 'bn_moving_var', [], {}),
         ('BatchNorm', 'bn', [4, 5, 6, 7, 8], {'fix_gamma': 'False'}), ('null', 'relu_gamma', [], {}),
         ('LeakyReLU', 'relu', [9, 10], {'act_type': 'prelu'}), ('null', 'fc_weight', [], {}), ('null', 'fc_bias', [], {}),
         ('FullyConnected', 'fc', [11, 12, 13], {}), ('null', 'fc1_gamma', [], {}), ('null', 'fc1_beta', [], {}),
         ('null', 'fc1_moving_mean', [], {}), ('null', 'fc1_moving_var', [], {}),
         ('BatchNorm', 'fc1', [14, 15, 16, 17, 18], {'eps': '2e-05', 'fix_gamma': 'True'})]
SHAPES = {'conv_weight': (4, 3, 3, 3), 'bn_gamma': 4, 'bn_beta': 4, 'bn_moving_mean': 4, 'bn_moving_var': 4, 'relu_gamma': 4,
          'fc_weight': (5, 144), 'fc_bias': 5, 'fc1_gamma': 5, 'fc1_beta': 5, 'fc1_moving_mean': 5, 'fc1_moving_var': 5}


def write_mxnet(folder, arrays: dict[str, np.ndarray], nodes=NODES, key: str = 'attrs'):
    blob = struct.pack('<QQQ', 0x112, 0, len(arrays))
    for array in arrays.values():
        blob += struct.pack(f'<IiI{array.ndim}qiii', 0xF993FAC9, 0, array.ndim, *array.shape, 1, 0, 0) + array.tobytes()
    blob += struct.pack('<Q', len(arrays))
    for name in arrays:
        full = f'{"aux" if "moving" in name else "arg"}:{name}'.encode()
        blob += struct.pack('<Q', len(full)) + full
    (folder / 'x-0000.params').write_bytes(blob)
    (folder / 'x-symbol.json').write_text(json.dumps({'nodes': [
        {'op': op, 'name': name, 'inputs': [[i, 0, 0] for i in inputs], key: attrs} for op, name, inputs, attrs in nodes]}))
    return folder / 'x-0000.params'


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    return {name: random.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in SHAPES.items()}


def test_mxnet_graph_is_converted_exactly(arrays, tmp_path):
    path = write_mxnet(tmp_path, arrays)
    assert set(read_params(path)) == {f'{"aux" if "moving" in name else "arg"}:{name}' for name in SHAPES}
    model = net()
    model.load_state_dict(convert_state(model, read_mxnet(path)))
    a = {name: torch.from_numpy(value) for name, value in arrays.items()}
    pixels = torch.randint(0, 256, (2, 3, 6, 6)).float()
    y = F.conv2d((pixels - 127.5) * 0.0078125, a['conv_weight'], padding=1)
    y = F.batch_norm(y, a['bn_moving_mean'], a['bn_moving_var'], a['bn_gamma'], a['bn_beta'], eps=1e-3)
    y = F.linear(F.prelu(y, a['relu_gamma']).flatten(1), a['fc_weight'], a['fc_bias'])
    y = F.batch_norm(y, a['fc1_moving_mean'], a['fc1_moving_var'], None, a['fc1_beta'], eps=2e-5)
    with torch.inference_mode():
        torch.testing.assert_close(model((pixels - 127.5) / 127.5), y)


@pytest.mark.parametrize('key', ['attrs', 'attr', 'param'])
def test_mxnet_scalars_inside_a_network_are_not_its_preprocessing(arrays, key, tmp_path):
    """As of a hard swish or a scaled embedding, in a graph of any version."""
    expected = read_mxnet(write_mxnet(tmp_path, arrays))
    nodes = [*NODES, ('_mul_scalar', 'scaled', [19], {'scalar': '64'}), ('_minus_scalar', 'moved', [20], {'scalar': '3'})]
    found = read_mxnet(write_mxnet(tmp_path, arrays, nodes, key))
    assert expected.keys() == found.keys() and all(torch.equal(value, found[name]) for name, value in expected.items())


def test_mxnet_files_that_cannot_be_read(arrays, tmp_path):
    path = write_mxnet(tmp_path, arrays)
    whole = path.read_bytes()
    for data, message in ((whole[:-3], 'ends at byte'), (whole[:200], 'ends at byte'), (b'x' * 400, 'not an MXNet'),
                          (whole + b'..', '2 bytes too many')):
        path.write_bytes(data)
        with pytest.raises(MXNetError, match=message):
            read_params(path)
        with pytest.raises(WeightsError, match=message):
            zoo.load('mobilefacenet', weights=path)
    path = write_mxnet(tmp_path, arrays, [('Copy', *node[1:3], {}) if node[0] == '_minus_scalar' else node for node in NODES])
    with pytest.raises(MXNetError, match='subtracts 0'):
        read_mxnet(path)
    (tmp_path / 'x-symbol.json').unlink()
    with pytest.raises(FileNotFoundError, match=r'x-symbol\.json'):
        read_mxnet(path)
    (tmp_path / 'renamed.params').write_bytes(b'')
    with pytest.raises(FileNotFoundError, match=r'/renamed-symbol\.json'):
        read_mxnet(tmp_path / 'renamed.params')
    path = write_mxnet(tmp_path, {name: value for name, value in arrays.items() if name != 'fc_bias'})
    with pytest.raises(MXNetError, match='fc_bias'):
        read_mxnet(path)


def test_insightface_teacher_tells_people_apart(shared, faces):
    """InsightFace's public MobileFaceNet: 48 faces of six people."""
    model = zoo.load('mobilefacenet', weights=shared / TEACHER)
    embeddings = torch.from_numpy(TorchEmbedder(model, model.preprocess)(faces))
    similarity = F.normalize(embeddings) @ F.normalize(embeddings).T
    same_person = torch.arange(48)[:, None] // 8 == torch.arange(48) // 8
    assert similarity[~same_person].max() < 0.5 < similarity[same_person].min()


def test_insightface_teacher_on_lfw(shared, lfw_fold):
    """This proves the architecture, the preprocessing and the evaluator at once. On all of LFW it has its known 99.52 %."""
    model = zoo.load('mobilefacenet', weights=shared / TEACHER)
    result = verify(TorchEmbedder(model, model.preprocess), lfw_fold)
    assert round(100 * result.accuracy, 2) == 99.0
    assert round(100 * result.tar['1e-3'], 2) == 98.33
    with pytest.raises(WeightsError, match=r'is \(64, 3, 3, 3\); features.0.0.weight of FDFaceNet is \(48, 3, 3, 3\)'):
        zoo.load('fdfacenet', weights=shared / TEACHER)
