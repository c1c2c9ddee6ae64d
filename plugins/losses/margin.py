"""Classification heads: class centres, and the softmax loss with or without a margin on the angle to a face's own centre.

Sources: ArcFace (Deng et al. 2019, eq. 3; LNRN eq. 1; paper 003 eq. 11), CosFace (Wang et al. 2018, eq. 4), their
combination ``cos(m1 * theta + m2) - m3`` (ArcFace eq. 4; InsightFace's ``margin_list = (m1, m2, m3)``), AdaFace (Kim et al.
2022, section 3.3), softmax (paper 003 eq. 9-10), centre loss (Wen et al. 2016).

Deviations from ``arcface_torch`` (``losses.py``):

- there the margin is added inside ``no_grad``, so the gradient is that of the plain cosine; here the derivative of the margin
  is kept, as in the papers;
- there the logit rises again once the angle plus the margin exceeds pi, that is for the hardest faces, which the loss would
  push away; here it goes on falling, as in ArcFace's first code (:func:`add_margin`);
- with ``m3`` above 0 ``arcface_torch`` leaves out ``m1`` and ``m2``; here they count, as in ArcFace's eq. 4.

With a single margin the logits up to pi are the same.
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

    Where ``m1 * theta + m2 > pi`` it is ``cos(theta) - drop - m3``: lower than for any smaller angle, and falling on with the
    slope of the plain cosine. For ``m1 = 1``, ``drop`` is ``m2 * sin(m2)``, as in ArcFace's first code (InsightFace,
    ``easy_margin`` off); the logit then steps down from -1 to ``-cos(m2) - m2 * sin(m2)``, -1.12 for 0.5. That code has no
    other ``m1``; for those, ``drop`` is ours, the one that leaves no step.

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
    """Margins at ``progress`` in [0, 1]: linear from ``start`` to ``end`` (paper 002's dynamic margin goes from 0.5 to 0.3 with
    the stage of the training; that the change is linear is our choice)."""
    return start if end is None else tuple(a + (b - a) * progress for a, b in zip(start, end, strict=True))


class MarginHead(nn.Module):
    """Class centres ``(num_classes, num_features)`` and the margin softmax loss.

    Args:
        margins: ``(m1, m2, m3)``: ``(1, 0.5, 0)`` is ArcFace, ``(1, 0, 0.4)`` CosFace. The trainer may change them.
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
        """Mean cross-entropy over the rows whose label is not -1 (0 if there are none).

        Raises:
            ValueError: a label is not below the number of classes.
        """
        return self.loss_and_logits(embeddings, labels)[0]

    def loss_and_logits(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of :meth:`forward` and its logits (in training, this updates AdaFace's statistics: call it once a step)."""
        if labels.max() >= len(self.weight):
            raise ValueError(f'label {labels.max().item()} does not fit num_classes={len(self.weight)}')
        known, logits = labels >= 0, self.logits(embeddings, labels)
        loss = F.cross_entropy(logits, labels.clamp(min=0), reduction='none')
        return (loss * known).sum() / known.sum().clamp(min=1), logits


def adaface_margin(margins: tuple[float, float, float]) -> float:
    """AdaFace's one margin ``m`` of ``margins = (1, m, 0)``.

    Raises:
        ValueError: one of the other two, which AdaFace does not use, is set.
    """
    m1, m, m3 = margins
    if m1 != 1 or m3 != 0:
        raise ValueError(f'AdaFace has one margin m, the middle one of ({m1:g}, {m:g}, {m3:g}): write (1, {m:g}, 0)')
    return m


class AdaFaceHead(MarginHead):
    """AdaFace: the margin follows the image's quality, estimated by the embedding's norm.

    With ``k = clip((|z| - mean) / std * h, -1, 1)`` the logit of a face's own class is ``cos(theta - m * k) - (m * k + m)``.
    ``mean`` and ``std`` are running statistics of the norm (momentum 0.99, as published), and ``h = 0.333``. ``m`` is
    ``margins[1]``, 0.4 in the paper; the default of all heads is 0.5, so set ``(1, 0.4, 0)``.

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
        """Scaled logits float32 ``(N, C)``, margin included; in training the batch's norms update the statistics."""
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
    """Plain softmax with a bias, embeddings and weights not normalised (paper 003 eq. 9); article 002 compares ArcFace with
    it."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.bias = nn.Parameter(torch.zeros(len(self.weight)))

    def logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Logits float32 ``(N, C)``; there is no margin, so the labels do not matter."""
        return F.linear(embeddings.float(), self.weight, self.bias)


HEADS: dict[str, type[MarginHead]] = {'margin': MarginHead, 'adaface': AdaFaceHead, 'softmax': SoftmaxHead}


class CentreLoss(nn.Module):
    """``mean(|z - c_y|^2) / 2``, where ``c_y`` is the learned centre of a face's own class (rows labelled -1 do not count).

    Deviations from the paper: the mean over the batch instead of the sum, and centres that are ordinary parameters of the
    optimiser instead of having their own update rule.
    """

    def __init__(self, num_classes: int, num_features: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(num_classes, num_features))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of embeddings ``(N, D)`` and labels ``(N,)``, a scalar; 0 if all labels are -1."""
        known = labels >= 0
        squared = (embeddings.float() - self.centres[labels.clamp(min=0)]).square().sum(1)
        return 0.5 * (squared * known).sum() / known.sum().clamp(min=1)
