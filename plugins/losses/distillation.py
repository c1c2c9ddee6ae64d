"""Distillation losses: what a student network sees or says, compared with what its teacher does on the same faces.

The losses of :data:`DISTILLATIONS` compare a :class:`Seen` of the student with one of the teacher, so that one can replace
another by name. Only label distillation also needs the labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

__all__ = ['DISTILLATIONS', 'Seen', 'askd_loss', 'attention_loss', 'attention_transfer_loss', 'embedding_loss', 'label_loss',
           'relation_loss']


class Seen(NamedTuple):
    """What a network makes of a batch.

    Attributes:
        embedding: ``(N, D)``.
        logits: ``(N, C)`` of its classification head, None if it has no head.
        channel_maps, spatial_maps: CBAM's attention after the sigmoid, block by block: ``(N, C, 1, 1)`` and ``(N, 1, H, W)``.
        features: the blocks' outputs ``(N, C, H, W)``.
        channel_scores, spatial_scores: the attention before the sigmoid, in the same shapes.
    """

    embedding: Tensor
    logits: Tensor | None = None
    channel_maps: tuple[Tensor, ...] = ()
    spatial_maps: tuple[Tensor, ...] = ()
    features: tuple[Tensor, ...] = ()
    channel_scores: tuple[Tensor, ...] = ()
    spatial_scores: tuple[Tensor, ...] = ()


def embedding_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean(1 - cos(student, teacher))`` over rows of ``(N, D)``."""
    return (1 - F.cosine_similarity(student, teacher)).mean()


def relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the two ``(N, N)`` matrices of cosine similarities (off the diagonal).

    Verification compares similarities, so this asks for exactly what is used. It follows similarity-preserving distillation
    (Tung and Mori 2019), which compares inner products and normalises them row by row; relational distillation (Park et al.
    2019) compares distances and angles.

    Raises:
        ValueError: there is only one row, so no pair to compare.
    """
    count = len(student)
    if count < 2:
        raise ValueError(f'relation compares pairs of faces, a batch of {count} has none; use batch_size=2 or more')
    student, teacher = F.normalize(student), F.normalize(teacher)
    difference = student @ student.T - teacher @ teacher.T
    return difference.square().sum() / (count * (count - 1))


def label_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 4.0, hard: float = 0.5) -> Tensor:
    """Label distillation of logits ``(N, C)``, paper 003 eqs. 5-6 and figure 3: ``hard * CE + (1 - hard) * soft``.

    The paper prints neither T nor the weight nor the soft term: 4, 0.5 and Hinton's ``T^2 * KL(teacher || student)`` (Hinton et
    al. 2015, section 2) are our choice. Rows labelled -1 take part in the soft term only.
    If the recognition loss is ArcFace, the hard term is *the same thing again*: with both on, it counts ``1 + hard`` times.
    """
    soft = F.kl_div(F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1), log_target=True,
                    reduction='batchmean') * temperature ** 2
    known = labels >= 0
    cross_entropy = F.cross_entropy(student, labels.clamp(min=0), reduction='none')
    return hard * (cross_entropy * known).sum() / known.sum().clamp(min=1) + (1 - hard) * soft


def attention_loss(student: Seen, teacher: Seen) -> Tensor:
    """Paper 003 eqs. 7-8: ``sum_i (rho_s + rho_c) / 2`` over all blocks, ``rho = 1 - cos`` of the flattened maps.

    The maps are those after the sigmoid (eqs. 3-4). Their values are positive, so no two maps are far apart. A-SKD, from which
    the paper takes the idea, compares the maps before the sigmoid: :func:`askd_loss`.

    Raises:
        ValueError: a network has no maps, or they differ in number or shape.
    """
    return _map_distances(student, teacher, 'channel_maps', 'spatial_maps') / 2


def askd_loss(student: Seen, teacher: Seen) -> Tensor:
    """A-SKD (Shin et al., "Teaching Where to Look", ECCV 2022): ``sum_i (rho_s + rho_c)`` over all blocks, ``rho`` as in
    :func:`attention_loss`.

    As in its public code (gist-ailab/teaching-where-to-look) the maps are those before the sigmoid. Their values have either
    sign, so they lie much farther apart than after it. That code weights each term by 5: ``distill={'askd': 5.0}``. A channel
    map of zeros (no hidden unit of a narrow network's MLP is on) has no direction: its ``rho`` is 1 and teaches nothing.

    Deviation: A-SKD's spatial attention has 3x3 kernels; here the kernels are the network's own (``cbam_resnext100``: 7x7).

    Raises:
        ValueError: as :func:`attention_loss`.
    """
    return _map_distances(student, teacher, 'channel_scores', 'spatial_scores')


def attention_transfer_loss(student: Seen, teacher: Seen) -> Tensor:
    """AT (Zagoruyko and Komodakis 2017, eq. 2 without its factor beta / 2): L2 distance of the normalised ``mean_c(x^2)`` maps,
    mean over the batch and summed over the blocks.

    Raises:
        ValueError: the networks have no features, or differ in the number of blocks or the size of the maps.
    """
    return sum(((_activation(a) - _activation(b)).norm(dim=1).mean() for a, b in _pairs(student, teacher, 'features')),
               student.embedding.new_zeros(()))


def _activation(features: Tensor) -> Tensor:
    return F.normalize(features.square().mean(1).flatten(1))


def _map_distances(student: Seen, teacher: Seen, *kinds: str) -> Tensor:
    """``1 - cos`` of the flattened maps, mean over the batch and summed over blocks and kinds."""
    return sum(((1 - F.cosine_similarity(a.flatten(1), b.flatten(1))).mean() for a, b in _pairs(student, teacher, *kinds)),
               student.embedding.new_zeros(()))


def _pairs(student: Seen, teacher: Seen, *kinds: str) -> list[tuple[Tensor, Tensor]]:
    """The maps of student and teacher block by block.

    Raises:
        ValueError: a network has no maps, or they differ in number or shape.
    """
    pairs = []
    for kind in kinds:
        mine, theirs = getattr(student, kind), getattr(teacher, kind)
        if len(mine) != len(theirs) or not mine:
            raise ValueError(f'{kind}: the student has {len(mine)} blocks, the teacher {len(theirs)}; attention distillation '
                             'needs networks of equal depth that expose their attention (cbam_resnext100)')
        for block, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            if a.shape[2:] != b.shape[2:] or (kind.startswith('channel') and a.shape != b.shape):
                raise ValueError(f'{kind}, block {block}: the student has {tuple(a.shape)}, the teacher {tuple(b.shape)}; '
                                 'these shapes must agree')
        pairs += zip(mine, theirs, strict=True)
    return pairs


def _of_embeddings(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Seen, Seen], Tensor]:
    def compare(student: Seen, teacher: Seen) -> Tensor:
        if student.embedding.shape != teacher.embedding.shape:
            raise ValueError(f'embeddings of {student.embedding.shape[1]} and {teacher.embedding.shape[1]} numbers: '
                             'give the student the embedding_size of its teacher')
        return loss(student.embedding, teacher.embedding)
    return compare


DISTILLATIONS: dict[str, Callable[[Seen, Seen], Tensor]] = {
    'embedding': _of_embeddings(embedding_loss),
    'relation': _of_embeddings(relation_loss),
    'attention': attention_loss,
    'askd': askd_loss,
    'at': attention_transfer_loss,
}
