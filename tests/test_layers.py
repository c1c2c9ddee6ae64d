"""Building blocks against values worked out by hand: a layer of the right shape that computes something else still trains."""

from __future__ import annotations

import math

import pytest
import torch

from plugins.layers import (
    CBAM,
    ECA,
    GDC,
    ChannelAttention,
    InvertedResidual,
    SpatialAttention,
    attention,
    channel_shuffle,
    make_act,
)

X = torch.tensor([-4.0, -1.0, 0.0, 2.0, 7.0])


@pytest.mark.parametrize(('name', 'expected'), [
    ('prelu', [-1.0, -0.25, 0.0, 2.0, 7.0]), ('relu', [0.0, 0.0, 0.0, 2.0, 7.0]), ('relu6', [0.0, 0.0, 0.0, 2.0, 6.0]),
    ('leaky_relu', [-0.4, -0.1, 0.0, 2.0, 7.0]), ('hswish', [0.0, -1 / 3, 0.0, 5 / 3, 7.0]), (None, X.tolist())])
def test_activations(name, expected):
    x = X.clone().view(1, 1, 1, 5).expand(1, 3, 1, 5).clone()
    found = make_act(name, 3)(x)
    torch.testing.assert_close(found, torch.tensor(expected).expand(1, 3, 1, 5))


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match=r"unknown activation 'gelu'; known: .*'hswish'"):
        make_act('gelu', 3)
    with pytest.raises(ValueError, match=r"unknown attention 'senet'; known: .*'cbam'"):
        attention('senet', 3)


def test_shuffled_channels():
    x = torch.arange(6.0).view(1, 6, 1, 1) + torch.tensor([0.0, 10.0]).view(2, 1, 1, 1)
    assert channel_shuffle(x)[:, :, 0, 0].tolist() == [[0, 3, 1, 4, 2, 5], [10, 13, 11, 14, 12, 15]]


def test_channel_attention():
    """Means (2, 2) and maxima (4, 2) through one MLP of a hidden unit: 4 and 6, times 1 and 2; SE has the means alone."""
    x = torch.tensor([[0.0, 4.0], [2.0, 2.0]]).view(1, 2, 1, 2)
    for layer, expected in ((ChannelAttention(2), [10.0, 20.0]), (ChannelAttention(2, use_max=False), [4.0, 8.0])):
        layer.mlp[0].weight.data, layer.mlp[2].weight.data = torch.ones(1, 2, 1, 1), torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
        assert layer.scores(x).ravel().tolist() == expected
        torch.testing.assert_close(layer(x), x * torch.sigmoid(torch.tensor(expected)).view(1, 2, 1, 1))
    assert not attention('se', 32).use_max and attention('cam', 32).use_max
    assert attention('se', 32).mlp[0].out_channels == 2  # C / 16


def test_spatial_attention_sees_the_mean_then_the_maximum():
    layer, x = SpatialAttention(), torch.tensor([[1.0, 2.0], [5.0, 0.0]]).view(1, 2, 1, 2)
    assert layer.conv.kernel_size == (7, 7)
    layer.conv.weight.data.zero_()
    layer.conv.weight.data[0, :, 3, 3] = torch.tensor([1.0, 10.0])
    assert layer.scores(x).ravel().tolist() == [3 + 50, 1 + 20]
    torch.testing.assert_close(layer(x), x * torch.sigmoid(torch.tensor([53.0, 21.0])))


def test_cbam_attends_to_channels_first():
    torch.manual_seed(0)
    layer, x = CBAM(32), torch.randn(2, 32, 5, 5)
    refined = layer.channel(x)
    y, maps = layer.attend(x)
    torch.testing.assert_close(y, layer.spatial(refined))
    torch.testing.assert_close(maps.spatial_scores, layer.spatial.scores(refined))
    assert not torch.allclose(y, layer.channel(layer.spatial(x)), atol=1e-3)
    for after, before in ((maps.channel, maps.channel_scores), (maps.spatial, maps.spatial_scores)):
        torch.testing.assert_close(after, torch.sigmoid(before))
    torch.testing.assert_close(layer(x), y)


@pytest.mark.parametrize(('channels', 'kernel'), [(8, 3), (64, 3), (128, 5), (256, 5), (512, 5), (2048, 7)])
def test_eca_kernels(channels, kernel):
    """``gamma`` 2 and ``b`` 1, as the paper's code has them."""
    assert ECA(channels).conv.kernel_size == (kernel,)


def test_eca_weighs_a_channel_by_its_neighbours():
    layer, x = ECA(8), torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 2.0]).view(1, 8, 1, 1).expand(1, 8, 2, 3)
    layer.conv.weight.data = torch.tensor([[[0.5, 1.0, -2.0]]])  # of the channel before, itself and the one behind
    scores = torch.tensor([0.0, -2.0, 1.0, 0.5, 0.0, 0.0, -4.0, 2.0]).view(1, 8, 1, 1)
    torch.testing.assert_close(layer(x + 0), x * torch.sigmoid(scores))
    same = torch.ones(1, 8, 2, 3)
    torch.testing.assert_close(layer(same)[0, 3, 0, 0].item(), 1 / (1 + math.exp(0.5)), rtol=1e-5, atol=0)


def test_gdc_has_a_kernel_a_channel():
    layer, x = GDC(3, (4, 5)).eval(), torch.randn(2, 3, 4, 5)
    expected = (x * layer[0].weight.view(1, 3, 4, 5)).sum((2, 3), keepdim=True) / math.sqrt(1 + layer[1].eps)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    assert len(layer) == 2 and len(GDC(3, (4, 5), act='prelu')) == 3


@pytest.mark.parametrize(('out', 'stride', 'residual'), [(4, 1, True), (4, 2, False), (6, 1, False)])
def test_inverted_residual_adds_its_input_where_shapes_allow(out, stride, residual):
    layer, x = InvertedResidual(4, out, 2, stride).eval(), torch.randn(2, 4, 6, 6)
    layer.body[-1][1].weight.data.zero_()  # the last BatchNorm: nothing comes out of the body
    assert torch.equal(layer(x), x if residual else torch.zeros(2, out, 6 // stride, 6 // stride))
    assert len(layer.body) == 3 and len(InvertedResidual(4, 4, 1, 1).body) == 2
