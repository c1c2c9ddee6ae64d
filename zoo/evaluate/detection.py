"""Average precision of detectors, and landmark errors where landmarks are known.

Annotations are read by :mod:`zoo.evaluate.detection_sets`. The arithmetic is that of the official WIDER FACE evaluation: scores
are stretched to [0, 1] over the whole set, precision and recall are taken at 1000 thresholds, a detection of a face outside the
subset counts neither for nor against, a second detection of the same face counts against, and the average precision is the area
under the monotone envelope (PASCAL VOC 2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from plugins.faces import Faces

__all__ = ['DetectionResult', 'GroundTruth', 'evaluate_detections', 'landmark_errors', 'overlaps']

STEPS = 1000


@dataclass(frozen=True)
class GroundTruth:
    """The faces of a picture.

    Attributes:
        faces: all of them, with landmarks where they are known.
        counts: bool ``(F,)``: belongs to the evaluated subset; the others are ignored, found or not.
    """

    faces: Faces
    counts: np.ndarray


@dataclass(frozen=True)
class DetectionResult:
    """What :func:`evaluate_detections` measures.

    Attributes:
        ap: average precision, a fraction.
        recall, precision: at ``threshold``; false_alarms: detections per picture that hit no face there.
        landmark_error: mean distance of the five points from the known ones, a fraction of the distance between the eyes,
            over the faces found at ``threshold``; landmark_error_p95 its 95th percentile; NaN where no landmarks are known.
    """

    ap: float
    recall: float
    precision: float
    false_alarms: float
    landmark_error: float
    landmark_error_p95: float
    threshold: float
    pictures: int
    faces: int

    def to_dict(self) -> dict:
        """Plain mapping; None where a figure is NaN, which JSON does not know."""
        return {key: None if value != value else value for key, value in vars(self).items()}


def evaluate_detections(found: Sequence[Faces], truth: Sequence[GroundTruth], threshold: float = 0.5, overlap: float = 0.5,
                        spread: tuple[float, float] | None = None) -> DetectionResult:
    """Compare detections with the truth, picture by picture.

    Args:
        found: down to a low score (0.02 is usual), else the average precision is cut off.
        threshold: score at which recall, precision and landmark errors are reported.
        overlap: intersection over union that makes a hit.
        spread: lowest and highest score of the whole set, where these pictures are a part of it.

    Raises:
        ValueError: different numbers of pictures, or no face counts.
    """
    if len(found) != len(truth):
        raise ValueError(f'{len(found)} lists of detections for {len(truth)} pictures')
    faces = int(sum(t.counts.sum() for t in truth))
    if not faces:
        raise ValueError('the set has no face that counts, so average precision is undefined')
    matches = [_match(f, t, overlap) for f, t in zip(found, truth, strict=True)]
    ap = _average_precision(matches, faces, spread)
    hits = proposals = 0
    errors = []
    for match, f, t in zip(matches, found, truth, strict=True):
        kept = (match.scores >= threshold) & match.proposal
        proposals += int(kept.sum())
        first = _first(match.face[kept])
        hits += len(first)
        rows, faces_hit = match.order[kept][first], match.face[kept][first]
        errors.append(landmark_errors(f.landmarks[rows], t.faces.landmarks[faces_hit]))
    errors = np.concatenate(errors)
    errors = errors[np.isfinite(errors)]
    mean, tail = (float(errors.mean()), float(np.percentile(errors, 95))) if len(errors) else (float('nan'),) * 2
    return DetectionResult(ap, hits / faces, hits / max(proposals, 1), (proposals - hits) / len(truth), mean, tail, threshold,
                           len(truth), faces)


class _Match(NamedTuple):
    """The detections of a picture, best first.

    Attributes:
        order: row of each among the picture's detections; scores: float64.
        proposal: it counts, for or against: it hits a face of the subset or none at all.
        face: row of the face of the subset that it hits, -1 for none; recalled: how many different ones are hit so far.
    """

    order: np.ndarray
    scores: np.ndarray
    proposal: np.ndarray
    face: np.ndarray
    recalled: np.ndarray


def _match(found: Faces, truth: GroundTruth, overlap: float) -> _Match:
    order = np.argsort(-found.scores, kind='stable')
    scores = found.scores[order].astype(np.float64)
    owner = np.full(len(order), -1)
    if len(truth.faces) and len(order):
        table = overlaps(found.boxes[order], truth.faces.boxes)
        best = table.argmax(1)
        owner = np.where(table[np.arange(len(order)), best] >= overlap, best, -1)
    hit = owner >= 0
    proposal = ~hit | truth.counts[owner] if len(truth.counts) else ~hit
    new = np.zeros(len(order), int)
    new[np.flatnonzero(hit & proposal)[_first(owner[hit & proposal])]] = 1
    return _Match(order, scores, proposal, np.where(proposal, owner, -1), np.cumsum(new))


def _first(owner: np.ndarray) -> np.ndarray:
    """Indices of the first detection of every face (-1 is not a face)."""
    faces, index = np.unique(owner, return_index=True)
    return index[faces >= 0]


def _average_precision(matches: Sequence[_Match], faces: int, spread: tuple[float, float] | None) -> float:
    """Area under the precision-recall curve, a fraction; see the module's docstring.

    Args:
        faces: that count, in all pictures.
    """
    scores = np.concatenate([match.scores for match in matches])
    low, high = spread or (scores.min(initial=1.0), scores.max(initial=0.0))
    span = high - low or 1.0
    counts = np.zeros((STEPS, 2))
    thresholds = 1 - (np.arange(STEPS) + 1) / STEPS
    for match in matches:
        if len(match.scores):
            last = np.searchsorted(-(match.scores - low) / span, -thresholds, side='right') - 1
            seen = last >= 0
            counts[seen, 0] += np.cumsum(match.proposal)[last[seen]]
            counts[seen, 1] += match.recalled[last[seen]]
    precision = np.divide(counts[:, 1], counts[:, 0], out=np.zeros(STEPS), where=counts[:, 0] > 0)
    recall = np.concatenate([[0], counts[:, 1] / faces, [1]])
    envelope = np.maximum.accumulate(np.concatenate([[0], precision, [0]])[::-1])[::-1]
    return float((np.diff(recall) * envelope[1:]).sum())


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union ``(N, M)``; pixel-inclusive sides (``x2 - x1 + 1``), as the official evaluations have it."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    inner = (high - low + 1).clip(min=0).prod(2)
    area_first, area_second = ((b[:, 2:] - b[:, :2] + 1).prod(1) for b in (first, second))
    return inner / (area_first[:, None] + area_second[None] - inner)


def landmark_errors(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean point-to-point distance of ``(F, 5, 2)`` landmarks, a fraction of the true distance between the eyes, ``(F,)``.

    Profile faces have eyes close together; the distance is at least 0.3 of that between eyes and mouth, lest they dominate.
    """
    eyes = np.linalg.norm(truth[:, 0] - truth[:, 1], axis=1)
    height = np.linalg.norm(truth[:, :2].mean(1) - truth[:, 3:].mean(1), axis=1)
    return np.linalg.norm(found - truth, axis=2).mean(1) / np.maximum(np.maximum(eyes, 0.3 * height), 1e-6)
