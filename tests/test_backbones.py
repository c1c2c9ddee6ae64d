"""The contract battery: every registered backbone, no code per model."""

from __future__ import annotations

import runpy

import pytest
import torch

import zoo
from plugins.preprocess import Preprocess
from plugins.registry import OptionError, backbone_family, create_backbone, list_backbones, list_detectors, register_backbone
from tests.nets import build, inputs_for, settle

NAMES = list_backbones()


@pytest.fixture(scope='module')
def images(crops) -> torch.Tensor:
    return torch.from_numpy(Preprocess()(crops[:2]))


@pytest.mark.parametrize('name', NAMES)
class TestContract:
    @pytest.mark.parametrize('num_features', [128, 256, 512])
    def test_embedding(self, name, num_features, images):
        model = build(name, num_features=num_features).eval()
        with torch.inference_mode():
            embedding = model(inputs_for(model, images))
        assert embedding.shape == (2, num_features) and embedding.dtype == torch.float32
        assert model.num_features == num_features

    def test_two_faces_differ_and_batch_mates_do_not_matter(self, name, images):
        model = build(name)
        x = inputs_for(model, images)
        settle(model, x)
        with torch.inference_mode():
            both, first = model(x), model(x[:1])
        assert torch.cosine_similarity(both[:1], both[1:]).item() < 0.999
        torch.testing.assert_close(both[:1], first, rtol=1e-4, atol=1e-4 * both.abs().max().item())

    def test_every_parameter_gets_a_gradient(self, name, images):
        model = build(name).train()
        x = inputs_for(model, images)
        (model(torch.cat([x, x.flip(3)])) * torch.randn(4, model.num_features)).sum().backward()
        without = [key for key, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
        assert not without

    def test_state_dict_round_trip(self, name):
        first, second = build(name, dropout=0.0), build(name, dropout=0.5, fp16=True)  # InsightFace trains without dropout
        with torch.no_grad():
            for parameter in second.parameters():
                parameter.fill_(7)
        second.load_state_dict(first.state_dict(), strict=True)
        assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))

    def test_other_input_sizes_and_dropout(self, name):
        with torch.device('meta'):
            model = build(name, input_size=(128, 96), dropout=0.3)
        assert zoo.profile(model).input_size == model.input_size == (128, 96)
        assert 0.3 in [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]

    def test_images_of_another_size_are_refused(self, name):
        with torch.device('meta'):
            model = build(name, input_size=112)
            with pytest.raises(ValueError, match=r'images of 128x112 pixels.*built for 112x112'):
                model(torch.zeros(1, 3, 128, 112))

    def test_insightface_call_and_autocast(self, name, images):
        """The convolutions in half precision, the head in float32, by the network's own flag or an outer autocast."""
        model, seen = build(name, dropout=0.0, fp16=True, num_features=512).eval(), []
        convolution = next(m for m in model.features.modules() if isinstance(m, torch.nn.Conv2d))
        convolution.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        first = next(m for m in model.head.modules() if not any(m.children()))
        first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
        with torch.inference_mode():
            own = model(inputs_for(model, images))
            model.fp16 = False
            with torch.autocast('cpu', torch.bfloat16):
                outer = model(inputs_for(model, images))
        for embedding in (own, outer):
            assert embedding.dtype == torch.float32 and torch.isfinite(embedding).all()
        assert seen == [torch.bfloat16, torch.float32] * 2

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
    def test_whole_in_another_precision(self, name, dtype, images):
        model = build(name).to(dtype).eval()
        with torch.inference_mode():
            assert torch.isfinite(model(inputs_for(model, images[:1]).to(dtype))).all()

    def test_card(self, name):
        card = zoo.card(name)
        with torch.device('meta'):  # counts the full networks without their memory and time
            model = create_backbone(name)
        found = zoo.profile(model)
        assert (found.params, found.macs) == (card.params, card.macs)
        assert model.num_features == card.num_features
        assert found.input_size == (card.input_size, card.input_size)
        assert card.fidelity == 'exact' or card.deviations


def test_every_card_has_a_network():
    assert zoo.list_models(task='recognition') == NAMES
    assert zoo.list_models(task='detection') == list_detectors()


def test_family_is_the_module():
    assert backbone_family('fdfacenet') == 'fdfacenet'


def test_names_by_pattern():
    assert list_backbones('*facenet_nogdc') == ['dwfacenet_nogdc', 'fdfacenet_nogdc', 'nfacenet_nogdc']
    assert list_backbones('resnet1?') == ['resnet18'] and list_backbones('nonesuch') == [] and list_detectors('ssd_*')


def test_an_error_inside_a_network_is_its_own(monkeypatch):
    """Without options, none can be wrong."""
    def broken(**options):
        return 1 + 'one'
    monkeypatch.setattr('plugins.registry._BACKBONES._entry_points', {'broken': broken})
    with pytest.raises(TypeError, match='unsupported operand') as caught:
        create_backbone('broken')
    assert not isinstance(caught.value, OptionError)


def test_unknown_name_suggests():
    with pytest.raises(KeyError, match="did you mean 'fdfacenet'"):
        create_backbone('fdfacenett')


def test_unknown_option_is_named():
    with pytest.raises(TypeError, match=r'fdfacenet.*widht'):
        create_backbone('fdfacenet', widht=0.5)


def test_a_function_that_cannot_be_called_without_options_is_named(monkeypatch):
    monkeypatch.setattr('plugins.registry._BACKBONES._entry_points', {'greedy': lambda width: width})
    with pytest.raises(OptionError, match=r"'greedy' was called with no options: .*missing 1 required positional argument"):
        create_backbone('greedy')


def test_option_of_another_type_is_named():
    with pytest.raises(OptionError, match=r"iresnet50.*units=3: 'int' object is not iterable"):
        create_backbone('iresnet50', units=3)


def test_duplicate_name_is_refused():
    def fdfacenet():
        ...
    with pytest.raises(ValueError, match='registered twice'):
        register_backbone(fdfacenet)


def test_a_file_that_failed_says_so_again(tmp_path, monkeypatch):
    (tmp_path / 'mine.py').write_text('from plugins.registry import register_backbone\n'
                                      '@register_backbone\ndef mine(**options): ...\nimport nonesuch\n')
    monkeypatch.setenv('FACEZOO_PLUGINS', str(tmp_path / 'mine.py'))
    monkeypatch.setattr('plugins.registry._BACKBONES._entry_points', {})
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match='nonesuch'):
            list_backbones()


def test_a_file_of_ones_own_imported_by_its_name_as_well(tmp_path, monkeypatch):
    (tmp_path / 'mine.py').write_text('from plugins.registry import register_backbone\n@register_backbone\n'
                                      'def mine(**options): ...\n')
    monkeypatch.setenv('FACEZOO_PLUGINS', str(tmp_path / 'mine.py'))
    monkeypatch.setattr('plugins.registry._BACKBONES._entry_points', {})
    runpy.run_path(str(tmp_path / 'mine.py'), run_name='__main__')
    assert list_backbones() == ['mine']


def test_a_network_that_does_not_say_what_it_eats_is_refused(monkeypatch):
    def bare(**options):
        return torch.nn.Flatten()
    monkeypatch.setattr('plugins.registry._BACKBONES._entry_points', {'bare': bare})
    with pytest.raises(ValueError, match=r"'bare' is a Flatten without input_size and num_features: .*_base\.Backbone"):
        create_backbone('bare', num_features=512)


@pytest.mark.parametrize(('name', 'options', 'message'), [
    ('fdfacenet', {'input_size': 0}, 'input_size=0'), ('vgg16', {'input_size': 16}, 'too small'),
    ('cnn8_fd_pooling', {'input_size': 16}, 'too small'),
    ('mobilenet_v1', {'input_size': 0}, 'input_size=0'), ('resnet18', {'input_size': -4}, 'input_size=-4'),
    ('cnn8_fd_pooling', {'depthwise': True}, 'the paper has no such network')])
def test_what_cannot_be_built_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_backbone(name, **options)


@pytest.mark.parametrize(('name', 'options', 'message'), [
    ('fdfacenet', {'input_size': '112'}, "input_size='112': must be a whole number"),
    ('fdfacenet', {'input_size': (112, 112, 3)}, 'or .height, width.'),
    ('fdfacenet', {'num_features': 0}, 'num_features=0'),
    ('fdfacenet', {'num_features': '512'}, "num_features='512': must be a whole number"),
    ('fdfacenet', {'width': '0,5'}, "width='0,5': .* a number from 1"),
    ('ghostfacenet', {'width': 0}, 'width=0: .* a number above 0'), ('ghostfacenet', {'width': float('inf')}, 'width=inf: '),
    ('ghostfacenet', {'width': '0,5'}, "width='0,5': "), ('mobilenet_v2', {'width': '0,5'}, "width='0,5': "),
    ('fdfacenet', {'width': 0}, 'width=0: .* a number from 1'), ('fdfacenet', {'width': float('nan')}, 'width=nan: '),
    ('fdfacenet', {'width': float('inf')}, 'width=inf: '),
    ('lnrn', {'plan': (16, 32, 64)}, 'five channel counts'),
])
def test_options_that_cannot_be_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        zoo.create(name, **options)
