"""Quantisation-aware fine-tuning: the rounding of 8-bit inference in the forward pass, plain weights in the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from plugins.quantization import FakeQuantised, Ranges, fake_quantise, weight_levels
from recipes.config import load_recipe
from recipes.trainer.engine import Trainer
from zoo.hub import weights_path
from zoo.weights import read_state


@pytest.fixture(scope='module')
def x(faces) -> torch.Tensor:
    from plugins.preprocess import Preprocess
    return torch.from_numpy(Preprocess()(faces[::6]))


def test_rounding_and_its_gradient():
    x = torch.tensor([-3.0, -1.0, -0.4, 0.0, 0.1, 0.9, 3.0], requires_grad=True)
    rounded = fake_quantise(x, torch.tensor(1.0))
    assert torch.equal((rounded * 127).round(), torch.tensor([-127, -127, -51, 0, 13, 114, 127]).float())
    rounded.sum().backward()
    assert x.grad[0] == x.grad[-1] == 0 and (x.grad[2:-1] == 1).all()
    torch.testing.assert_close(fake_quantise(x, torch.tensor(1.0), 31) * 31, (x.clamp(-1, 1) * 31).round())
    assert fake_quantise(torch.zeros(3), torch.tensor(0.0)).isfinite().all()


def test_weight_levels_are_ncnn_s():
    """6 bits where Winograd may run (dense 3x3, stride 1), else 8: the rule of ncnn2table."""
    assert weight_levels((3, 3), (1, 1), (1, 1), 1) == 31
    for other in (((3, 3), (2, 2), (1, 1), 1), ((3, 3), (1, 1), (1, 1), 64), ((1, 1), (1, 1), (1, 1), 1)):
        assert weight_levels(*other) == 127


def test_ranges_move_only_while_training(small_net, x):
    quantised = FakeQuantised(small_net, Ranges(small_net)).train(False)
    quantised.ranges.train()
    with torch.no_grad():
        quantised(x)
        quantised.ranges.eval()
        before = {name: value.clone() for name, value in quantised.ranges.state_dict().items()}
        quantised(2 * x)
    assert before and all(value > 0 for value in before.values())
    assert all(torch.equal(before[name], value) for name, value in quantised.ranges.state_dict().items())
    first, largest = next(iter(before)), x.abs().max()
    assert before[first] == largest, 'the first layer reads the image'
    quantised.ranges.train()
    with torch.no_grad():
        quantised(2 * x)
    torch.testing.assert_close(quantised.ranges.state_dict()[first], 1.01 * largest)  # a hundredth of the way


def test_rounds_and_leaves_the_backbone_alone(small_net, x):
    plain = {name: value.clone() for name, value in small_net.state_dict().items()}
    quantised = FakeQuantised(small_net, Ranges(small_net)).eval()
    quantised.ranges.train()
    with torch.no_grad():
        expected, found = small_net(x), quantised(x)
        unit = torch.nn.functional.normalize(expected)
        assert (unit @ unit.T)[~torch.eye(len(x), dtype=bool)].median() < 0.9, 'the net does not tell faces apart'
        cosine = torch.nn.functional.cosine_similarity(expected, found)
        assert cosine.min() > 0.9 and cosine.max() < 0.99999
        assert torch.equal(small_net(x), expected), 'hooks were left behind'
    assert all(torch.equal(plain[name], value) for name, value in small_net.state_dict().items())


def test_gradients_reach_every_weight(small_net, x):
    quantised = FakeQuantised(small_net, Ranges(small_net)).eval()
    quantised.ranges.train()
    weights = [module.weight for module in small_net.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    gradients = torch.autograd.grad(quantised(x).square().sum(), weights)
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in gradients)


def test_training_writes_plain_weights(tmp_path, face_folder, face_bin):
    recipe = tmp_path / 'tiny.py'
    recipe.write_text(f"""
config = dict(network='fdfacenet', network_args={{'width': 0.25}}, embedding_size=32, rec={str(face_folder)!r}, num_epoch=2,
              batch_size=12, lr=0.02, scale=16.0, margin_list=(1.0, 0.2, 0.0), val_targets=[{str(face_bin)!r}], num_workers=0,
              frequent=1, device='cpu', seed=1, output={str(tmp_path / 'run')!r}, compile=False, quantise=True)
""")
    config = load_recipe(str(recipe), {})
    Trainer(config).fit()
    import zoo
    names = set(zoo.create('fdfacenet', width=0.25, num_features=32).state_dict())
    assert set(read_state(Path(config.output, 'best.safetensors'))) == names, 'ranges must not be in the weights'
    lines = [json.loads(line) for line in Path(config.output, 'log.jsonl').read_text().splitlines()]
    assert any('margin' in line for line in lines)


def test_recipe_fine_tunes_the_trained_net():
    config = load_recipe('fdfacenet_int8_faces', {'rec': 'faces', 'teachers': ['teacher.onnx']})
    assert weights_path(config.init) == weights_path('fdfacenet') and weights_path('fdfacenet').is_file()
    assert config.quantise and not config.compile and config.num_epoch < load_recipe(
        'fdfacenet_kd_faces', {'rec': 'faces', 'teachers': ['teacher.onnx']}).num_epoch
