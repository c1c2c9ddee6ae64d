"""FDDB: faces are ellipses, and the benchmark's own curve is the discrete ROC (Jain, Learned-Miller: FDDB, UM-CS-2010-009).

At every score, detections (filled rectangles) and annotated faces (filled ellipses, both cut off at the picture's border) are
matched one to one so that the sum of their overlaps is greatest. A pair that overlaps by more than half is a hit, every other
detection a false alarm. The ROC counts false alarms over all pictures of all folds; what is usually quoted is the share of
faces hit at 1000 of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plugins.extras import require
from plugins.faces import Faces

__all__ = ['discrete_roc', 'ellipse_boxes', 'hit_rate', 'region_overlaps']

OVERLAP = 0.5


def ellipse_boxes(ellipses: np.ndarray) -> np.ndarray:
    """Bounding boxes of ellipses, float64 ``(F, 4)``: x1, y1, x2, y2.

    Args:
        ellipses: float64 ``(F, 5)``: radius along the major and the minor axis, angle of the major axis against the x axis
            in radians (y points down), x and y of the centre.
    """
    major, minor, angle, x, y = ellipses.T
    width = np.hypot(major * np.cos(angle), minor * np.sin(angle))
    height = np.hypot(major * np.sin(angle), minor * np.cos(angle))
    return np.stack([x - width, y - height, x + width, y + height], 1)


def region_overlaps(boxes: np.ndarray, ellipses: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Intersection over union ``(N, F)`` of filled boxes and ellipses inside a picture of ``shape`` (height, width).

    Drawn as the official program draws them: centre and corners rounded, radii cut to whole pixels, both edges of a rectangle
    inside it.
    """
    import cv2
    height, width = shape
    table = np.zeros((len(boxes), len(ellipses)))
    corners = np.rint(boxes)
    left, top = corners[:, 0].clip(0, width).astype(int), corners[:, 1].clip(0, height).astype(int)
    right, bottom = (corners[:, 2] + 1).clip(left, width).astype(int), (corners[:, 3] + 1).clip(top, height).astype(int)
    areas = (right - left) * (bottom - top)
    for column, (major, minor, angle, x, y) in enumerate(ellipses):
        mask = np.zeros(shape, np.uint8)
        cv2.ellipse(mask, (round(x), round(y)), (int(major), int(minor)), np.degrees(angle), 0, 360, 1, cv2.FILLED)
        total = cv2.integral(mask)
        inner = total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
        table[:, column] = inner / np.maximum(areas + total[-1, -1] - inner, 1)
    return table


def discrete_roc(found: Sequence[Faces], ellipses: Sequence[np.ndarray], shapes: Sequence[tuple[int, int]]) -> np.ndarray:
    """The discrete ROC over all pictures, int64 ``(T, 2)``: hits and false alarms by falling score.

    Args:
        found: down to a low score.
        ellipses, shapes: of every picture; see :func:`region_overlaps`.
    """
    steps = [_steps(*picture) for picture in zip(found, ellipses, shapes, strict=True)]
    scores, changes = np.concatenate([s for s, _ in steps]), np.concatenate([c for _, c in steps])
    order = np.argsort(-scores, kind='stable')
    last = np.append(np.diff(scores[order]) != 0, True)[:len(order)]  # equal scores are one step
    return changes[order].cumsum(0)[last]


def _steps(found: Faces, ellipses: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The scores of a picture, each once and falling, and by how much hits and false alarms change there."""
    assign = require('scipy.optimize', 'bench').linear_sum_assignment
    order = np.argsort(-found.scores, kind='stable')
    scores = found.scores[order]
    table = region_overlaps(found.boxes[order], ellipses, shape)
    ends = np.flatnonzero(np.append(np.diff(scores) != 0, True)[:len(scores)]) + 1
    hits = np.array([(table[assign(table[:end], maximize=True)] > OVERLAP).sum() for end in ends], np.int64)
    counts = np.stack([hits, ends - hits], 1)
    return scores[ends - 1], np.diff(counts, axis=0, prepend=np.zeros((1, 2), np.int64))


def hit_rate(roc: np.ndarray, faces: int, false_alarms: int) -> float:
    """The largest share of ``faces`` hit with at most so many false alarms in all."""
    return float(roc[roc[:, 1] <= false_alarms, 0].max(initial=0)) / faces
