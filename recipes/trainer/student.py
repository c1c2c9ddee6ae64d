"""What is trained: backbone, classification head and losses in one module, so that data-parallel training sees all of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from plugins.losses.distillation import DISTILLATIONS, Seen, label_loss
from plugins.losses.margin import HEADS, CentreLoss, adaface_margin
from plugins.preprocess import Preprocess
from plugins.quantization import FakeQuantised, Ranges
from plugins.registry import create_backbone
from recipes.config import RecipeError, TrainConfig

__all__ = ['Student', 'forward_of', 'see']

_NEED_MAPS = frozenset({'attention', 'askd', 'at'})


class Student(nn.Module):
    """Losses of a batch under a recipe.

    Raises:
        RecipeError: the recipe asks for attention maps that the backbone does not have, or for margins that its head has not.
    """

    def __init__(self, config: TrainConfig, preprocess: Preprocess, num_classes: int) -> None:
        super().__init__()
        self.config, self.preprocess = config, preprocess
        self.backbone = create_backbone(config.network, num_features=config.embedding_size, **config.network_args)
        self.head = self.centres = None
        if config.margin_weight:
            _check_margins(config)
            self.head = HEADS[config.head](num_classes, config.embedding_size, config.margin_list, config.scale)
        if config.centre_weight:
            self.centres = CentreLoss(num_classes, config.embedding_size)
        self.maps = bool(_NEED_MAPS & set(config.distill))
        if self.maps and not hasattr(self.backbone, 'forward_maps'):
            raise RecipeError(f'distill={config.distill}: {config.network} exposes no attention maps; use cbam_resnext100')
        if config.channels_last:
            self.backbone.to(memory_format=torch.channels_last)
        if config.quantise and self.maps:
            raise RecipeError(f'quantise=true and distill={config.distill}: attention maps are not made in 8 bits; '
                              'leave out one of the two')
        self.ranges = Ranges(self.backbone) if config.quantise else None
        forward = forward_of(self.as_deployed(self.backbone), self.maps, config.compile and not self.ranges)
        # not a registered sub-module: the same parameters would be in the state dict twice
        object.__setattr__(self, '_forward', forward)

    def as_deployed(self, backbone: nn.Module) -> nn.Module:
        """What is to be measured: the backbone, or with ``quantise`` its 8-bit simulation."""
        return FakeQuantised(backbone, self.ranges) if self.ranges else backbone

    def forward(self, images: Tensor, labels: Tensor, teacher: Seen | None) -> dict[str, Tensor]:
        """Losses, each times its weight, of uint8 RGB faces ``(N, S, S, 3)`` and labels ``(N,)``."""
        seen = see(self._forward, self.preprocess.tensor(images))
        config, losses = self.config, {}
        with torch.autocast(images.device.type, enabled=False):  # losses in float32
            if self.head is not None:
                loss, logits = self.head.loss_and_logits(seen.embedding, labels)
                losses['margin'] = config.margin_weight * loss
            if self.centres is not None:
                losses['centre'] = config.centre_weight * self.centres(seen.embedding, labels)
            for name, weight in (config.distill.items() if teacher else ()):
                if name == 'label':
                    loss = label_loss(logits, teacher.logits, labels, config.label_temperature, config.label_hard)
                else:
                    loss = DISTILLATIONS[name](seen, teacher)
                losses[name] = weight * loss
        return losses


def _check_margins(config: TrainConfig) -> None:
    if config.head == 'softmax' and config.margin_end is not None:
        raise RecipeError(f"margin_end={list(config.margin_end)}: head='softmax' has no margin; leave it out")
    for key in ('margin_list', 'margin_end'):
        margins = getattr(config, key)
        if config.head == 'adaface' and margins is not None:
            try:
                adaface_margin(margins)
            except ValueError as error:
                raise RecipeError(f'{key}: {error}') from None


def forward_of(backbone: nn.Module, maps: bool, compiled: bool) -> Callable:
    """What :func:`see` runs: the backbone, or with ``maps`` its ``forward_maps``."""
    forward = backbone.forward_maps if maps else backbone
    return torch.compile(forward) if compiled else forward


def see(forward: Callable, x: Tensor) -> Seen:
    """Run a backbone; attention maps and block outputs, where it gives them, in float32."""
    found = forward(x)
    if isinstance(found, Tensor):
        return Seen(found)
    embedding, maps, features = found
    channel, spatial, channel_scores, spatial_scores = map(_float, zip(*maps, strict=True))
    return Seen(embedding, None, channel, spatial, _float(features), channel_scores, spatial_scores)


def _float(maps) -> tuple[Tensor, ...]:
    return tuple(each.float() for each in maps)
