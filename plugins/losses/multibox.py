"""Losses of detectors: SSD's multibox loss with landmarks, and dense distillation from a teacher with the same anchors.

Sources: Liu et al. 2016 (SSD); Deng et al. 2020 (RetinaFace, eq. 1, without the mesh); Pytorch_Retinaface (box weight 2,
    negatives to positives 7); Li et al. 2020, "Generalized Focal Loss" (quality focal loss, for soft targets).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from plugins.detectors.anchors import box_iou, corners, encode, match
from plugins.faces import Faces

__all__ = ['Targets', 'assign', 'dense_distillation', 'multibox_loss']

Outputs = tuple[Tensor, Tensor, Tensor]  # logits (N, K, 2), boxes (N, K, 4), landmarks (N, K, 10)
SURE = 0.5  # score from which a labelled face is taught; below it only counts as near
NEGATIVES = 7  # anchors of the background for each anchor of a face
NEAR = 0.2  # an anchor that overlaps a labelled face by at least this: the teacher's opinion on it is about that face
UNSURE = 0.3  # an anchor far from all labels with at least this score of the teacher is left out: it may be an unlabelled face


class Targets:
    """What the ``K`` anchors of a picture should say, stacked over ``N`` pictures.

    Attributes:
        face: bool ``(N, K)``: the anchor is responsible for a face.
        near: float ``(N, K)``: the largest overlap with a face, whether its label is sure or not.
        boxes, landmarks: ``(N, K, 4)`` and ``(N, K, 10)``, valid where ``face``; unknown landmarks are NaN.
    """

    def __init__(self, rows: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> None:
        self.face, self.near, self.boxes, self.landmarks = map(torch.stack, zip(*rows, strict=True))

    def to(self, device: torch.device) -> Targets:
        """Move all tensors to a device, in place."""
        self.__dict__.update({name: value.to(device) for name, value in vars(self).items()})
        return self


def assign(faces: list[Faces], priors: Tensor) -> Targets:
    """Match the faces of each picture, in pixels, with the priors ``(K, 3)`` of :class:`plugins.detectors.anchors.Anchors`;
    faces scored below :data:`SURE` only count as near."""
    return Targets([_assign(f, priors) for f in faces])


def _assign(faces: Faces, priors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kept = faces.scores >= SURE
    boxes, landmarks = torch.from_numpy(faces.boxes[kept]), torch.from_numpy(faces.landmarks[kept])
    owner, near = match(boxes, priors)
    if not kept.all():
        near = torch.maximum(near, box_iou(torch.from_numpy(faces.boxes[~kept]), corners(priors)).amax(0))
    targets = torch.zeros(len(priors), 4), torch.zeros(len(priors), 10)
    mine = owner >= 0
    if mine.any():
        own = owner[mine]
        for target, values in zip(targets, encode(boxes[own], landmarks[own], priors[mine]), strict=True):
            target[mine] = values
    return mine, near, *targets


def multibox_loss(outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
    """SSD's loss for labelled faces, with hard negative mining: the :data:`NEGATIVES` worst anchors of the background count for
    each anchor of a face, and as many in a picture without one.

    Background is what overlaps no face by 0.2 (0.35 in Pytorch_Retinaface). Anchors that overlap one by more, but are not
    responsible for it, do not count.

    Args:
        outputs: as a detector returns them.

    Returns:
        ``score``, ``box`` and ``landmark`` losses, sums over the batch divided by the number of anchors of faces.
    """
    logits, boxes, landmarks = outputs
    face = targets.face
    count = face.sum().clamp(min=1)
    entropy = F.cross_entropy(logits.flatten(0, 1), face.flatten().long(), reduction='none').reshape(face.shape)
    worst = entropy.masked_fill(face | (targets.near >= NEAR), -1).sort(1, descending=True).values
    rank = torch.arange(face.shape[1], device=face.device)
    mined = (rank < (NEGATIVES * face.sum(1, keepdim=True)).clamp(min=NEGATIVES)) & (worst > 0)
    score = (entropy[face].sum() + worst[mined].sum()) / count
    return {'score': score, **_regression(boxes, landmarks, targets, face.float(), count)}


def dense_distillation(outputs: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
    """Every anchor learns what the teacher says of it on the same view, corrected by labels made under better conditions.

    An anchor that is responsible for a labelled face counts as a face even if the teacher misses it on this view (turned, tiny,
    blurred). Faces that the teacher finds far from all labels are false alarms or unlabelled faces, and are left out.

    Args:
        outputs, teacher: of the student and of the teacher, as a detector returns them.

    Returns:
        ``score`` (quality focal loss), its sum divided by the sum of its targets; ``box`` and ``landmark`` losses, means
        weighted by the target, over the anchors of labelled faces and those near such a face where the teacher is sure.
    """
    logits, boxes, landmarks = outputs
    opinion = torch.sigmoid(teacher[0][..., 1] - teacher[0][..., 0])
    target = torch.where(targets.face, 1.0, opinion)
    counts = targets.face | (targets.near >= NEAR) | (opinion < UNSURE)
    logit = logits[..., 1] - logits[..., 0]
    focal = (target - torch.sigmoid(logit)).square() * F.binary_cross_entropy_with_logits(logit, target, reduction='none')
    total = target[counts].sum().clamp(min=1)
    followed = (opinion > 0.5) & (targets.near >= NEAR) & ~targets.face
    joined = copy.copy(targets)
    joined.boxes, joined.landmarks = (torch.where(followed.unsqueeze(2), own, label) for own, label in
                                      ((teacher[1], targets.boxes), (teacher[2], targets.landmarks)))
    weight = torch.where(counts, target, 0.0) * (targets.face | followed)
    return {'score': (focal * counts).sum() / total, **_regression(boxes, landmarks, joined, weight, weight.sum().clamp(min=1))}


def _regression(boxes: Tensor, landmarks: Tensor, targets: Targets, weight: Tensor, total: Tensor) -> dict[str, Tensor]:
    """Smooth L1 of boxes and of known landmarks (quadratic below a tenth of a variance unit, 1 % of the anchor)."""
    rows = weight > 0
    weight = weight[rows].unsqueeze(1)
    box = F.smooth_l1_loss(boxes[rows], targets.boxes[rows], reduction='none', beta=0.1)
    wanted = targets.landmarks[rows]
    known = wanted.isfinite()
    points = F.smooth_l1_loss(landmarks[rows], wanted.nan_to_num(), reduction='none', beta=0.1) * known
    return {'box': (weight * box).sum() / total, 'landmark': (weight * points).sum() / total}
