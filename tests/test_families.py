"""What single families can do beyond the contract."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest
import torch

import zoo
from plugins.backbones.lnrn import scale_box
from plugins.preprocess import Preprocess
from tests.conftest import ROOT
from tests.nets import build, settle


@pytest.fixture(scope='module')
def images(crops) -> torch.Tensor:
    return torch.from_numpy(Preprocess()(crops[:2]))


def resize(x: torch.Tensor, size: int) -> torch.Tensor:
    return torch.nn.functional.interpolate(x, (size, size), mode='bilinear', antialias=True)


class TestResolutions:
    """MobileFaceNet for several input sizes: one GDConv each, everything else shared."""

    def test_each_size_has_its_own_gdc(self, images):
        model = zoo.create('mobilefacenet', resolutions=(96, 64), width=0.25, num_features=64).eval()
        assert [key for key in dict(model.named_modules()) if key.endswith(('7x7', '6x6', '4x4'))] == [
            'features.18.sized.7x7', 'features.18.sized.6x6', 'features.18.sized.4x4']
        with torch.inference_mode():
            embeddings = [model(resize(images, size)) for size in (112, 96, 64)]
        assert all(e.shape == (2, 64) for e in embeddings)
        assert not torch.allclose(embeddings[0], embeddings[1])

    def test_same_as_a_network_of_that_size(self, images):
        model = build('mobilefacenet', resolutions=(64,))
        alone = build('mobilefacenet', input_size=64)
        state = {key.replace('sized.4x4.', ''): value for key, value in model.state_dict().items() if '7x7' not in key}
        alone.load_state_dict(state)
        x = resize(images, 64)
        with torch.inference_mode():
            torch.testing.assert_close(model.eval()(x), alone.eval()(x))
        assert zoo.profile(model.at(64)).macs == zoo.profile(alone).macs < zoo.profile(model).macs

    def test_exports_at_each(self, images, tmp_path):
        from zoo.export.onnx import export_onnx
        from zoo.runtime.onnx import onnx_session
        model = zoo.create('mobilefacenet', resolutions=(64,), width=0.25)
        settle(model, images)
        settle(model, resize(images, 64))
        x = resize(images, 64)
        export_onnx(model.at(64), tmp_path / 'small.onnx')
        found = torch.from_numpy(onnx_session(tmp_path / 'small.onnx', 1).run(None, {'image': x.numpy()})[0])
        with torch.inference_mode():
            torch.testing.assert_close(found, model(x), rtol=1e-3, atol=1e-3)
        assert model.input_size == (112, 112)

    def test_unknown_size_says_which_there_are(self):
        model = zoo.create('mobilefacenet', resolutions=(64,), width=0.25)
        with pytest.raises(ValueError, match='48x48 pixels: this MobileFaceNet was built for 112x112, 64x64'):
            model.eval()(torch.zeros(1, 3, 48, 48))
        with pytest.raises(ValueError, match=r'input_size=48: this network was built for .*64.*; add it to resolutions'):
            model.at(48)


class TestLNRN:
    def test_crop_is_x_then_y(self):
        """Only rows 34..89 and columns 28..83 (and the 3x3 neighbourhood) reach the key branch: eyes, nose and mouth."""
        unit = zoo.create('lnrn').eval().features[0]

        def seen() -> tuple[int, ...]:
            """First and last row, first and last column that the unit looks at."""
            x = torch.rand(1, 3, 112, 112, requires_grad=True)
            unit(x).square().sum().backward()
            rows, columns = (x.grad.abs().sum((0, 1, dim)).nonzero().ravel() for dim in (3, 2))
            return tuple(int(edge) for edge in (rows.min(), rows.max(), columns.min(), columns.max()))
        assert seen() == (0, 111, 0, 111)  # the pooled branch sees all of the face
        torch.nn.init.zeros_(unit.whole[1][0].weight)
        assert seen() == (33, 90, 27, 84)

    @pytest.mark.parametrize(('size', 'box'), [((112, 112), (28, 34, 84, 90)), ((96, 96), (24, 29, 72, 77)),
                                               ((128, 96), (24, 39, 72, 103))])
    def test_box_scales(self, size, box):
        assert scale_box((28, 34, 84, 90), size) == box

    @pytest.mark.parametrize(('options', 'message'), [
        ({'box': (28, 34, 80, 90)}, '56-pixel square'), ({'box': (60, 34, 116, 90)}, 'inside a 112x112'),
        ({'plan': 'XL'}, "plan='XL': must be one of 'S', 'M', 'L'"), ({'attention': 'senet'}, 'unknown attention'),
        ({'fusion': 'mul'}, "one of 'add', 'concat'"), ({'pool': 'min'}, "one of 'max', 'avg'"),
        ({'input_size': 100}, 'multiples of 16')])
    def test_bad_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            zoo.create('lnrn', **options)

    @pytest.mark.parametrize('options', [{'attention': kind} for kind in ('none', 'se', 'cam', 'sam', 'cbam')]
                             + [{'fusion': 'concat'}, {'pool': 'avg'}, {'attend_fused': True}, {'plan': (4, 8, 8, 8, 8)}])
    def test_alternatives_run(self, options, images):
        model = zoo.create('lnrn', **{'plan': (4, 8, 16, 16, 16), 'num_features': 32, **options}).eval()
        with torch.inference_mode():
            assert model(images).shape == (2, 32)


class TestAttentionMaps:
    def test_maps_of_every_unit(self, images):
        model = build('cbam_resnext100', num_features=32)
        settle(model, images)
        embedding, maps, stages = model.forward_maps(images)
        channel, spatial, *scores = zip(*maps, strict=True)
        torch.testing.assert_close(embedding, model(images))
        assert len(channel) == len(spatial) == 5 and [s.shape[2] for s in stages] == [56, 28, 14, 7]
        assert [m.shape[2] for m in spatial] == [56, 28, 28, 14, 7]
        for unit, a, b in zip([m for m in model.features if hasattr(m, 'cbam')], channel, spatial, strict=True):
            assert a.shape == (2, unit.body[1][0].out_channels, 1, 1) and b.shape[1] == 1
            assert min(a.min(), b.min()) >= 0 and max(a.max(), b.max()) <= 1  # float32 sigmoids saturate
        assert not torch.allclose(channel[-1][0], channel[-1][1])
        for after, before in zip((channel, spatial), scores, strict=True):
            torch.testing.assert_close([torch.sigmoid(m) for m in before], list(after))
            assert min(m.min() for m in before) < 0
        sum(m.sum() for m in channel + spatial).backward()
        assert model.features[1].cbam.channel.mlp[0].weight.grad.abs().sum() > 0

    def test_the_paper_has_49_units(self):
        with torch.device('meta'):
            _, maps, stages = zoo.create('cbam_resnext100').eval().forward_maps(torch.zeros(1, 3, 112, 112))
        assert (len(maps), len(stages)) == (49, 4)
        assert [s.shape[1] for s in stages] == [64, 128, 256, 512]


def test_grey_networks_see_luma_only(images):
    model = build('lightcnn9', input_size=112).eval()
    grey = (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True).expand_as(images)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), model(grey), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(model(images), model(images.flip(1)), rtol=1e-3, atol=1e-4)


def test_classifiers_give_logits(images):
    with torch.inference_mode():
        for name, options in (('cnn8_fd', {'width': 0.25}), ('resnet18', {'width': 0.25}), ('vgg16', {'width': 0.0625})):
            model = zoo.create(name, num_classes=10, input_size=32, **options).eval()
            assert model(resize(images, 32)).shape == (2, 10)


def test_unpublished_width_is_refused():
    with pytest.raises(ValueError, match=r'published for the widths 0.5, 1.0, 1.5, 2.0'):
        zoo.create('shufflefacenet', width=0.75)


def test_a_backbone_is_one_file_and_one_card(tmp_path):
    """The example of docs/contributing.md, in a copy of the sources: two files are written, nothing is edited, and
    the batteries find the new network."""
    family, card = re.findall(r'```(?:python|yaml)\n(.*?)```', (ROOT / 'docs' / 'contributing.md').read_text(), re.DOTALL)
    for room in ('plugins', 'zoo', 'tests'):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns('__pycache__', 'weights'))
    shutil.copy(ROOT / 'pyproject.toml', tmp_path)
    (tmp_path / 'plugins' / 'backbones' / 'tinyface.py').write_text(family)
    (tmp_path / 'zoo' / 'cards' / 'tinyface.yaml').write_text(card)
    listed = subprocess.run([sys.executable, '-m', 'zoo.cli', 'list'], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert 'tinyface' in listed.stdout
    run = subprocess.run([sys.executable, '-m', 'pytest', 'tests/test_backbones.py', 'tests/test_export_backbones.py', '-q',
                          '-o', 'addopts=', '-k', 'tinyface or every_card'], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]
    assert '16 passed' in run.stdout, run.stdout
