"""Foreign checkpoints by structure: the same tensors in the same order, whatever they are called.

Known to convert, checked against the public modules with random weights: MobileFaceNet of TreB1eN's InsightFace_Pytorch,
face.evoLVe, FaceX-Zoo, cavaface (``mobilefacenet``), Xiaoccer's MobileFaceNet_Pytorch and yeyupiaoling's
Pytorch-MobileFaceNet (``mobilefacenet``, the second last with ``input_size=(112, 96)``); InsightFace's ``r50``
(``iresnet50``); cavaface's GhostNet (``ghostfacenet``) and HRNet (``hrfacenet_w18``); Light CNN without its classifier
(``lightcnn9``, ``lightcnn29``); A-SKD's CBAMResNet with 7x7 kernels (``cbam_resnext100``). InsightFace's ``mbf`` is another
architecture and is refused.

A checkpoint does not say what it eats. TreB1eN, face.evoLVe, cavaface and InsightFace feed RGB ``(x - 127.5) / 127.5``, as
facezoo does; FaceX-Zoo trains on BGR ``(x - 127.5) / 128``: set ``model.preprocess`` for such weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ['Misfit', 'convert_state']

_UNUSED = 'num_batches_tracked'


class Misfit(ValueError):
    """The first tensor that does not fit."""


def convert_state(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` under the names of ``model``.

    Layers are matched one by one in the order of the two state dicts; a layer must have the same tensors (weight, bias,
    running mean, ...) of the same shapes. Three differences are bridged, exactly: a fully connected layer may be a 1x1
    convolution, a bias that ``model`` does not have is moved into the BatchNorm behind it, and a BatchNorm may lack scale and
    shift (then 1 and 0).

    Raises:
        Misfit: names the first tensor without a counterpart.
    """
    if len(state) > 2 and list(state) == sorted(state):
        raise Misfit('its tensors are sorted by name, so their order says nothing')
    own, given, network = _layers(model.state_dict()), _layers(state), type(model).__name__
    converted: dict[str, Tensor] = {}
    bias: Tensor | None = None
    for number, (own_name, wanted) in enumerate(own):
        if number == len(given):
            raise Misfit(f'it ends after {len(given)} layers; {own_name}.{next(iter(wanted))} of {network} is missing')
        name, tensors = given[number]
        tensors = dict(tensors)
        if bias is not None:
            tensors['running_mean'] = tensors['running_mean'] - bias
            bias = None
        if 'bias' in tensors and 'bias' not in wanted and _normalises(own, number + 1) and _normalises(given, number + 1):
            bias = tensors.pop('bias')
        if 'running_mean' in tensors and 'weight' in wanted and 'weight' not in tensors:
            tensors |= {'weight': torch.ones_like(tensors['running_mean']), 'bias': torch.zeros_like(tensors['running_mean'])}
        _compare(own_name, wanted, name, tensors, network)
        converted |= {f'{own_name}.{key}': tensors[key].reshape(value.shape) for key, value in wanted.items()}
    if len(given) > len(own):
        name, tensors = given[len(own)]
        raise Misfit(f'tensor {name}.{next(iter(tensors))} has no place in {network}, which has {len(own)} layers')
    return {key: converted.get(key, value) for key, value in model.state_dict().items()}


def _layers(state: Mapping[str, Tensor]) -> list[tuple[str, dict[str, Tensor]]]:
    """The tensors layer by layer, without BatchNorm's counters (which only training with cumulative averages uses)."""
    layers: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        name, _, leaf = key.rpartition('.')
        if leaf != _UNUSED:
            layers.setdefault(name, {})[leaf] = value
    return list(layers.items())


def _normalises(layers: list[tuple[str, dict[str, Tensor]]], number: int) -> bool:
    return number < len(layers) and 'running_mean' in layers[number][1]


def _compare(own_name: str, wanted: dict[str, Tensor], name: str, tensors: dict[str, Tensor], network: str) -> None:
    for key, value in wanted.items():
        if key not in tensors:
            raise Misfit(f'layer {name!r} has no {key}, which {network} needs for {own_name!r}')
        if _shape(tensors[key]) != _shape(value):
            raise Misfit(f'tensor {name}.{key} is {tuple(tensors[key].shape)}; {own_name}.{key} of {network} is '
                         f'{tuple(value.shape)}')
    for key in tensors:
        if key not in wanted:
            raise Misfit(f'tensor {name}.{key} has no place in {network}, whose layer {own_name!r} has only '
                         f'{", ".join(wanted)}')


def _shape(value: Tensor) -> tuple[int, ...]:
    """Shape of a weight, the same for a fully connected layer and a 1x1 convolution."""
    shape = tuple(value.shape)
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape
