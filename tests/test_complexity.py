"""Counters: the figures that the paper prints, and torchinfo as an independent counter."""

from __future__ import annotations

import pytest

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


def test_layers_add_up():
    found = zoo.profile(zoo.create('nfacenet'))
    assert sum(layer.macs for layer in found.layers) == found.macs
    assert sum(layer.params for layer in found.layers) == found.params


def test_wrong_size_says_so():
    with pytest.raises(ValueError, match='cannot run at 64x64'):
        zoo.profile(zoo.create('fdfacenet'), 64)
