"""Counters: the figures that the paper prints, and torchinfo as an independent counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import zoo

# (model, options, convention, printed value, unit): paper 001, tables 9 to 11; models.md section 2.2
PRINTED = [
    ('fdfacenet', {}, 'params', 3.17, 1e6), ('fdfacenet', {}, 'macs_paper', 130, 1e6),
    ('fdfacenet', {}, 'feature_map_mb_paper', 7.39, 1),
    ('fdfacenet_nogdc', {}, 'params', 7.10, 1e6), ('fdfacenet_nogdc', {}, 'macs_paper', 134, 1e6),
    ('fdfacenet_nogdc', {}, 'feature_map_mb_fused', 4.9, 1),
    ('nfacenet', {}, 'macs_paper', 656, 1e6), ('nfacenet', {}, 'feature_map_mb_paper', 21.92, 1),
    ('nfacenet_nogdc', {}, 'params', 7.10, 1e6), ('nfacenet_nogdc', {}, 'macs_paper', 660, 1e6),
    ('mobilefacenet', {'num_features': 128}, 'params', 1.0, 1e6),
    ('mobilefacenet', {'num_features': 128}, 'macs_paper', 230, 1e6),
    ('mobilefacenet', {'num_features': 128}, 'feature_map_mb_paper', 73.4, 1),
]


# (model, options, parameters in millions, pure MACs in millions): the reconstructions of models.md, to its digits
RECONSTRUCTED = [
    ('mobilefacenet', {'num_features': 128}, '1.003136', '220.97'), ('mobilefacenet', {}, '1.200512', '221.2'),
    ('mobilefacenet', {'input_size': 96}, '1.193856', '162.6'), ('mobilefacenet_m', {}, '0.937344', None),
    ('mobilefacenet_s', {}, '0.850688', None), ('mobilefacenet96', {}, '0.750720', '112.9'),
    ('mobilefacenet96_hrelu6', {}, '0.745856', None), ('mobilefacenet96_eca', {}, '0.745875', None),
    ('mobilefacenet', {'input_size': 96, 'rows': ((2, 64, 1, 2), (4, 128, 1, 2), (2, 128, 1, 1), (4, 128, 1, 2),
                                                  (2, 128, 2, 1))}, '0.771968', '73.3'),
    ('lnrn', {}, '1.573', '272.2'), ('lnrn_1', {}, '1.573', '315.6'), ('lnrn_2', {}, '1.562', '272.1'),
    ('lnrn', {'plan': 'M'}, '3.430', '622.9'), ('lnrn_1', {'plan': 'M'}, '3.430', '753.0'),
    ('lnrn', {'plan': 'L'}, '5.991', '1077'), ('lnrn_1', {'plan': 'L'}, '5.991', '1251'),
    ('shufflefacenet', {}, '1.4428', None), ('lightcnn9', {}, '5.48', None), ('lightcnn29', {}, '12.573', None),
    ('lightfacenet', {}, '1.102', None), ('proxylessfacenas', {'num_features': 128}, '3.20', None),
    ('mobiface', {}, '2.57', None), ('ghostfacenet', {'width': 1.0}, '2.49', None),
    ('iresnet50', {}, '43.59', None), ('cbam_resnext100', {}, '65.5', '12093'),
    ('cbam_resnext100', {'groups': (1, 32)}, '39.6', '6605'), ('cbam_resnext100', {'groups': 32}, '15.1', '446'),
]


@pytest.mark.parametrize(('name', 'options', 'params', 'macs'), RECONSTRUCTED)
def test_reconstructed_figures(name, options, params, macs):
    with torch.device('meta'):
        found = zoo.profile(zoo.create(name, **options))
    for value, printed in ((found.params, params), (found.macs, macs)):
        assert printed is None or round(value / 1e6, len(printed.partition('.')[2])) == float(printed)


@pytest.mark.parametrize(('name', 'options', 'key', 'printed', 'unit'), PRINTED)
def test_printed_figures(name, options, key, printed, unit):
    found = getattr(zoo.profile(zoo.create(name, **options)), key) / unit
    digits = len(str(printed).partition('.')[2])
    assert round(found, digits) == printed


def test_fdfacenet_to_the_last_digit():
    found = zoo.profile(zoo.create('fdfacenet'))
    assert (found.params, found.macs) == (3_173_664, 129_377_280)
    assert round(found.macs_paper / 1e6, 2) == 130.30
    assert round(found.feature_map_mb_paper, 3) == 7.387
    assert round(found.feature_map_mb_fused, 3) == 4.923


@pytest.mark.parametrize('width', [0.5, 1.25])
@pytest.mark.parametrize('size', [112, 96, (128, 96)])
def test_agrees_with_torchinfo(width, size):
    torchinfo = pytest.importorskip('torchinfo')
    model = zoo.create('fdfacenet', width=width, input_size=size)
    found = zoo.profile(model)
    summary = torchinfo.summary(model, (1, 3, *model.input_size), verbose=0)
    assert found.params == summary.total_params
    assert found.macs_torchinfo == summary.total_mult_adds
    assert found.feature_map_mb_paper == pytest.approx(summary.total_output_bytes / 1e6)


def test_a_fully_connected_layer_computes_at_every_position():
    """As in a transformer's tokens; only torchinfo counts it once."""
    torchinfo = pytest.importorskip('torchinfo')
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4, bias=False), torch.nn.Flatten(2), torch.nn.Linear(16, 5))
    found = zoo.profile(model, 16)
    assert (found.layers[-1].macs, found.layers[-1].macs_paper) == (8 * 16 * 5, 8 * 16 * 5 + 8 * 5)
    assert found.macs_torchinfo == torchinfo.summary(model, (1, 3, 16, 16), verbose=0).total_mult_adds


def test_a_transposed_convolution_computes_at_every_input():
    torchinfo = pytest.importorskip('torchinfo')
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1, bias=False),
                                torch.nn.ConvTranspose2d(8, 6, 4, 2, 1, groups=2, bias=True), torch.nn.BatchNorm2d(6))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 16, 16))
    found = zoo.profile(model, 16)
    assert found.macs == counter.get_total_flops() / 2 and found.layers[1].macs == 8 * 8 * (8 * 3 * 4 * 4)
    assert (found.layers[1].kind, found.layers[1].macs_paper - found.layers[1].macs) == ('transposed 4x4/2 g2', 6 * 16 * 16)
    assert found.macs_torchinfo == torchinfo.summary(model, (1, 3, 16, 16), verbose=0).total_mult_adds


def test_layers_add_up():
    found = zoo.profile(zoo.create('nfacenet'))
    assert sum(layer.macs for layer in found.layers) == found.macs
    assert sum(layer.params for layer in found.layers) == found.params


def test_wrong_size_says_so():
    with pytest.raises(ValueError, match='images of 64x64 pixels: this FDFaceNet was built for 112x112'):
        zoo.profile(zoo.create('fdfacenet'), 64)
    with pytest.raises(ValueError, match='Sequential cannot run at 2x2: mat1 and mat2'):
        zoo.profile(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 4)), 2)
    with pytest.raises(ValueError, match="input_size='112': must be a whole number"):
        zoo.profile(zoo.create('fdfacenet'), '112')
    with pytest.raises(ValueError, match='Conv2d does not say what size it takes; give input_size'):
        zoo.profile(torch.nn.Conv2d(3, 4, 3))
