"""False accepts among different persons, whole and by group: one picture of each is enough.

A threshold at FAR 1e-3 holds for strangers like those it was found on. To a recogniser, people of one origin, sex and age look
more alike than any two people do (NIST IR 8280), so that a place where everybody is of one group sees many times the false
accepts. No two pictures of one person are needed to measure that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from plugins.data.sources import TreeFaces
from plugins.preprocess import FaceError
from zoo.evaluate.embed import embed_faces
from zoo.runtime.embedder import Embedder

__all__ = ['ImpostorResult', 'evaluate_impostors', 'measure_impostors']

ENOUGH = 10  # pairs: fewer above a threshold do not fix it, and fewer in folders do not tell one person from strangers
_CHUNK = 256  # faces that are compared with all others at once


@dataclass(frozen=True)
class ImpostorResult:
    """What :func:`evaluate_impostors` measures.

    Attributes:
        faces: of different persons; pairs: all of them, each once.
        far: share of the pairs above a given threshold, by the name of the threshold.
        threshold: cosine similarity above which that share of the pairs lies, by FAR; only where it is ten pairs or more.
        most_alike: rows of the pair with the highest score, and the score.
    """

    faces: int
    pairs: int
    far: Mapping[str, float]
    threshold: Mapping[str, float]
    most_alike: tuple[int, int, float]

    def to_dict(self) -> dict:
        """Flat mapping with keys ``faces``, ``pairs``, ``far@1e-3``, ``threshold@1e-3``, ..."""
        return {'faces': self.faces, 'pairs': self.pairs, **{f'far@{name}': value for name, value in self.far.items()},
                **{f'threshold@{far}': value for far, value in self.threshold.items()}}


def measure_impostors(embedder: Embedder, source: TreeFaces, thresholds: Mapping[str, float], fars: tuple[str, ...],
                      flip: bool = True, progress: bool = False) -> tuple[ImpostorResult, dict[str, ImpostorResult]]:
    """All pairs of a folder's or zip's faces, and those within each of its folders that has two faces or more.

    Args:
        source: one face each of different persons; its folders are groups.
        thresholds: cosine similarity by name, whose FAR is measured.
        fars: whose thresholds are looked for.

    Raises:
        FaceError: fewer than two faces, a damaged one, or folders that hold pictures of one person.
    """
    if len(source) < 2:
        raise FaceError(f'{source.root}: one face cannot be compared with any other; give faces of two persons or more')
    embeddings, _ = embed_faces(embedder, source, flip, label='impostors', progress=progress)
    whole, groups = evaluate_impostors(embeddings, thresholds, fars), {}
    for number, name in enumerate(source.classes):
        rows = np.flatnonzero(source.labels == number)
        if len(rows) > 1:
            groups[name] = evaluate_impostors(embeddings[rows], thresholds, fars)
    persons = [name for name, group in groups.items() if any(far > 0.5 for far in group.far.values())]
    if sum(groups[name].pairs for name in persons) >= ENOUGH:
        raise FaceError(f'{source.root}/{persons[0]}: most pairs of its pictures are accepted as one person; here a folder is '
                        'a group of different persons, with one picture of each')
    return whole, groups


def evaluate_impostors(embeddings: np.ndarray, thresholds: Mapping[str, float], fars: tuple[str, ...]) -> ImpostorResult:
    """Compare L2-normalised embeddings ``(N, D)`` of ``N`` different persons, N at least 2, each with each.

    Args:
        thresholds, fars: as in :func:`measure_impostors`.
    """
    count = len(embeddings)
    pairs = count * (count - 1) // 2
    above = dict.fromkeys(thresholds, 0)
    allowed = {far: int(float(far) * pairs + 1e-9) for far in fars}
    highest = np.empty(0)  # scores, as many as the largest FAR needs
    most_alike = (0, 1, -np.inf)
    for at in range(0, count, _CHUNK):
        scores = embeddings[at:at + _CHUNK] @ embeddings[at:].T
        scores[np.tril_indices(len(scores), m=scores.shape[1])] = -np.inf  # each pair once
        row, column = np.unravel_index(scores.argmax(), scores.shape)
        if scores[row, column] > most_alike[2]:
            most_alike = (int(at + row), int(at + column), float(scores[row, column]))
        for name, threshold in thresholds.items():
            above[name] += int((scores > threshold).sum())
        highest = np.concatenate([highest, scores.ravel()])
        keep = min(max(allowed.values(), default=0) + 1, len(highest))
        highest = np.partition(highest, -keep)[-keep:]
    highest = np.sort(highest)[::-1]
    return ImpostorResult(count, pairs, {name: hits / pairs for name, hits in above.items()},
                          {far: float(highest[number]) for far, number in allowed.items() if number >= ENOUGH}, most_alike)
