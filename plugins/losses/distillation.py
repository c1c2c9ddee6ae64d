"""Distillation losses between a student's and a teacher's embeddings of the same faces."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

__all__ = ['embedding_loss', 'relation_loss']


def embedding_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean(1 - cos(student, teacher))`` over rows of ``(N, D)``."""
    return (1 - F.cosine_similarity(student, teacher)).mean()


def relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the two ``(N, N)`` matrices of cosine similarities (off the diagonal).

    What verification compares are similarities, so this asks for exactly what is used (similarity-preserving / relational
    distillation, Park et al. 2019).
    """
    student, teacher = F.normalize(student), F.normalize(teacher)
    difference = student @ student.T - teacher @ teacher.T
    count = len(student)
    return difference.square().sum() / (count * (count - 1))
