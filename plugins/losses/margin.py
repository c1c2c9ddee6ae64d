"""Classification heads: the class centres, and the softmax loss with or without a margin on the angle to the own centre.

Sources: ArcFace (Deng et al. 2019, eq. 3; LNRN eq. 1; paper 003 eq. 11), CosFace (Wang et al. 2018, eq. 4), their
combination ``cos(m1 * theta + m2) - m3`` (ArcFace eq. 4; InsightFace's ``margin_list = (m1, m2, m3)``), AdaFace (Kim et al.
2022, section 3.3), softmax (paper 003 eq. 9-10), centre loss (Wen et al. 2016).

Deviations from ``arcface_torch`` (``losses.py``): there the margin is added inside ``no_grad``, so its gradient is that of the
plain cosine; here the derivative of the margin is kept, as in the papers. There the logit rises again once the angle and its
margin are more than pi, that is for the hardest faces, which the loss would push away; here it goes on falling, as in ArcFace's
first code (:func:`add_margin`). Up to pi the logits are the same, if there is one margin: with ``m3`` above 0 ``arcface_torch``
leaves ``m1`` and ``m2`` out, here they count, as in ArcFace's eq. 4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ['HEADS', 'AdaFaceHead', 'CentreLoss', 'MarginHead', 'SoftmaxHead', 'adaface_margin', 'add_margin', 'margin_at']

_EPS = 1e-7  # keeps the derivative of arccos finite at 0 and pi


def add_margin(cosine: Tensor, labels: Tensor, margins: tuple[float, float, float]) -> Tensor:
    """``cos(m1 * theta + m2) - m3`` at each row's own class, the plain cosine elsewhere.

    Where ``m1 * theta + m2 > pi``, ``cos(theta) - drop - m3``: lower than everything before, and falling, with the slope of the
    plain cosine. ``drop`` is ``m2 * sin(m2)`` for ``m1 = 1``, as in ArcFace's first code (InsightFace, ``easy_margin`` off;
    from -1 it steps down to ``-cos(m2) - m2 * sin(m2)``, -1.12 for 0.5). Other ``m1`` have no model there: ``drop`` is ours,
    the one that leaves no step.

    Args:
        cosine: float32 ``(N, C)`` in [-1, 1].
        labels: int64 ``(N,)`` in ``[0, C)``; rows labelled -1 stay as they are.
        margins: ``(m1, m2, m3)``; ``m2`` in radians.
    """
    m1, m2, m3 = margins
    rows = torch.nonzero(labels >= 0).squeeze(1)
    own = cosine[rows, labels[rows]]
    if m1 == 1.0 and m2 == 0.0:
        target = own - m3
    else:
        angle = m1 * torch.arccos(own.clamp(-1 + _EPS, 1 - _EPS)) + m2
        drop = m2 * math.sin(m2) if m1 == 1.0 else 1 + math.cos((math.pi - m2) / m1)
        target = torch.where(angle > math.pi, own - drop, torch.cos(angle)) - m3
    return cosine.index_put((rows, labels[rows]), target)


def margin_at(start: tuple[float, float, float], end: tuple[float, float, float] | None, progress: float
              ) -> tuple[float, float, float]:
    """Margins at ``progress`` in [0, 1]: linear from ``start`` to ``end`` (paper 002's dynamic margin is 0.5 to 0.3, by the
    stage of the training; linear is ours)."""
    return start if end is None else tuple(a + (b - a) * progress for a, b in zip(start, end, strict=True))


class MarginHead(nn.Module):
    """Class centres ``(num_classes, num_features)`` and the margin softmax loss.

    Args:
        margins: ``(m1, m2, m3)``: ``(1, 0.5, 0)`` is ArcFace, ``(1, 0, 0.4)`` CosFace. The trainer may set it during training.
        scale: radius ``s`` of the hypersphere.
    """

    def __init__(self, num_classes: int, num_features: int, margins: tuple[float, float, float] = (1.0, 0.5, 0.0),
                 scale: float = 64.0) -> None:
        super().__init__()
        self.margins, self.scale = tuple(margins), scale
        self.weight = nn.Parameter(torch.empty(num_classes, num_features))
        nn.init.normal_(self.weight, std=0.01)

    def cosine(self, embeddings: Tensor) -> Tensor:
        """Cosine to every class centre, float32 ``(N, C)``."""
        return F.linear(F.normalize(embeddings.float()), F.normalize(self.weight))

    def logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Scaled logits float32 ``(N, C)``, margin included."""
        return self.scale * add_margin(self.cosine(embeddings), labels, self.margins)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the rows whose label is not -1 (0 when there is none).

        Raises:
            ValueError: a label is not below the number of classes.
        """
        return self.loss_and_logits(embeddings, labels)[0]

    def loss_and_logits(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of :meth:`forward`, and the logits it was made from (AdaFace's follow its statistics: ask once a step)."""
        if labels.max() >= len(self.weight):
            raise ValueError(f'label {labels.max().item()} does not fit num_classes={len(self.weight)}')
        known, logits = labels >= 0, self.logits(embeddings, labels)
        loss = F.cross_entropy(logits, labels.clamp(min=0), reduction='none')
        return (loss * known).sum() / known.sum().clamp(min=1), logits


def adaface_margin(margins: tuple[float, float, float]) -> float:
    """AdaFace's one margin ``m`` of ``margins = (1, m, 0)``.

    Raises:
        ValueError: one of the two that it has no use for is set.
    """
    m1, m, m3 = margins
    if m1 != 1 or m3 != 0:
        raise ValueError(f'AdaFace has one margin m, the middle one of ({m1:g}, {m:g}, {m3:g}): write (1, {m:g}, 0)')
    return m


class AdaFaceHead(MarginHead):
    """AdaFace: the margin follows the image's quality, estimated by the embedding's norm.

    ``k = clip((|z| - mean) / std * h, -1, 1)``, logit of the own class ``cos(theta - m * k) - (m * k + m)`` with running mean
    and standard deviation of the norm (momentum 0.99, as published), ``h = 0.333``; ``m`` is ``margins[1]``: 0.4 in the paper,
    while the default of all heads is 0.5, so set ``(1, 0.4, 0)``.

    Raises:
        ValueError: ``margins[0]`` is not 1 or ``margins[2]`` not 0.
    """

    concentration = 0.333

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        adaface_margin(self.margins)
        self.register_buffer('norm_mean', torch.tensor(20.0))
        self.register_buffer('norm_std', torch.tensor(100.0))

    def logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Scaled logits float32 ``(N, C)``, margin included; while training the statistics follow the batch's norms."""
        norms = embeddings.detach().float().norm(dim=1).clamp(0.001, 100)
        if self.training and len(norms) > 1:
            self.norm_mean.lerp_(norms.mean(), 0.01)
            self.norm_std.lerp_(norms.std(), 0.01)
        quality = ((norms - self.norm_mean) / (self.norm_std + 1e-3) * self.concentration).clamp(-1, 1)
        cosine, margin = self.cosine(embeddings), adaface_margin(self.margins)
        rows = torch.nonzero(labels >= 0).squeeze(1)
        theta = torch.arccos(cosine[rows, labels[rows]].clamp(-1 + 1e-3, 1 - 1e-3))
        target = torch.cos((theta - margin * quality[rows]).clamp(1e-3, torch.pi - 1e-3)) - margin * (quality[rows] + 1)
        return self.scale * cosine.index_put((rows, labels[rows]), target)


class SoftmaxHead(MarginHead):
    """Plain softmax on un-normalised embeddings and weights with a bias (paper 003 eq. 9), with which article 002 compares
    ArcFace."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.bias = nn.Parameter(torch.zeros(len(self.weight)))

    def logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Logits float32 ``(N, C)``; there is no margin, so the labels do not matter."""
        return F.linear(embeddings.float(), self.weight, self.bias)


HEADS: dict[str, type[MarginHead]] = {'margin': MarginHead, 'adaface': AdaFaceHead, 'softmax': SoftmaxHead}


class CentreLoss(nn.Module):
    """``mean(|z - c_y|^2) / 2`` to a learned centre of the own class (rows labelled -1 do not count).

    Deviations from the paper: the mean over the batch instead of the sum, and centres that are ordinary parameters of the
    optimiser instead of having their own update rule.
    """

    def __init__(self, num_classes: int, num_features: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(num_classes, num_features))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of embeddings ``(N, D)`` and labels ``(N,)``, a scalar; 0 when all are -1."""
        known = labels >= 0
        squared = (embeddings.float() - self.centres[labels.clamp(min=0)]).square().sum(1)
        return 0.5 * (squared * known).sum() / known.sum().clamp(min=1)
