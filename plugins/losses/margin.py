"""Margin heads: the class centres, and the softmax loss with a margin on the angle to the own centre.

Sources: ArcFace (Deng et al. 2019, eq. 3; LNRN eq. 1; paper 003 eq. 11), CosFace (Wang et al. 2018, eq. 4), their
combination ``cos(m1 * theta + m2) - m3`` (ArcFace eq. 4). InsightFace's ``margin_list = (m1, m2, m3)`` has the same meaning.

Deviation from ``arcface_torch``: there the margin is added inside ``no_grad``, so its gradient is that of the plain cosine;
here the derivative of the margin is kept, as in the papers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ['MarginHead', 'add_margin']

_EPS = 1e-7  # keeps the derivative of arccos finite at 0 and pi


def add_margin(cosine: Tensor, labels: Tensor, margins: tuple[float, float, float]) -> Tensor:
    """``cos(m1 * theta + m2) - m3`` at each row's own class, the plain cosine elsewhere.

    Args:
        cosine: float32 ``(N, C)`` in [-1, 1].
        labels: int64 ``(N,)`` in ``[0, C)``; rows labelled -1 stay as they are.
    """
    m1, m2, m3 = margins
    rows = torch.nonzero(labels >= 0).squeeze(1)
    own = cosine[rows, labels[rows]]
    if m1 == 1.0 and m2 == 0.0:
        target = own - m3
    else:
        theta = torch.arccos(own.clamp(-1 + _EPS, 1 - _EPS))
        target = torch.cos(m1 * theta + m2) - m3
    return cosine.index_put((rows, labels[rows]), target)


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

    def logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Scaled logits ``(N, C)`` in float32, margin included."""
        with torch.autocast(embeddings.device.type, enabled=False):
            cosine = F.linear(F.normalize(embeddings.float()), F.normalize(self.weight))
            return self.scale * add_margin(cosine, labels, self.margins)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the rows whose label is not -1 (0 when there is none).

        Raises:
            ValueError: a label is not below the number of classes.
        """
        if labels.max() >= len(self.weight):
            raise ValueError(f'label {labels.max().item()} does not fit num_classes={len(self.weight)}')
        known = labels >= 0
        loss = F.cross_entropy(self.logits(embeddings, labels), labels.clamp(min=0), reduction='none')
        return (loss * known).sum() / known.sum().clamp(min=1)
