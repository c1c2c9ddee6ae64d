"""LNRN's key-region box: where the facial key points of aligned faces lie, found by K-means.

Paper: Hui et al., LNRN, section 2.2 (four steps) and 3.3.1, figure 4: five clusters of all key points; the extremes of their
centres, [39:73, 51:88], are widened to [28:84, 34:90] so that the eyebrows are inside and the box is half the face wide.
Coordinates are (x, y) in the aligned face.

The paper's largest y is 88, that of ArcFace's template 92: the alignment it used is not the one of its citation. Faces
aligned by facezoo therefore give a box that lies a few pixels lower.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from plugins.extras import require
from plugins.files import atomic_path

__all__ = ['KeyRegion', 'find_key_region', 'plot_key_region']

POINTS = 5
SIDE = 112  # of the aligned faces, in pixels: that of `lnrn(box=...)`, whose box is half as large
MARGIN = 2  # pixels below the lowest centre: the paper's 90 - 88


@dataclass(frozen=True)
class KeyRegion:
    """What :func:`find_key_region` finds, in pixels of the aligned face.

    Attributes:
        centres: the five cluster centres ``(x, y)``, from top to bottom and left to right.
        bounds: ``(x0, y0, x1, y1)``: the rounded extremes of the centres.
        box: ``(x0, y0, x1, y1)``: the square of half the face's side around them, as ``lnrn(box=...)`` takes it.
        clusters: int ``(N, 5)``: which centre each key point belongs to.
    """

    centres: tuple[tuple[float, float], ...]
    bounds: tuple[int, int, int, int]
    box: tuple[int, int, int, int]
    clusters: np.ndarray


def find_key_region(landmarks: np.ndarray) -> KeyRegion:
    """Cluster the key points of aligned faces and derive the box of the key branch.

    Args:
        landmarks: ``(N, 5, 2)`` points (x, y) in aligned faces of 112 pixels.

    Raises:
        ValueError: not such an array, too few faces, or key points so far apart that no half-size box holds them.
    """
    import cv2
    points = np.asarray(landmarks, np.float32)
    if points.ndim != 3 or points.shape[1:] != (POINTS, 2) or len(points) < 2 or not np.isfinite(points).all():
        raise ValueError(f'key points of shape {points.shape}: expected finite (N, 5, 2) with N at least 2')
    cv2.setRNGSeed(0)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-4)
    _, labels, found = cv2.kmeans(points.reshape(-1, 2), POINTS, None, criteria, 10, cv2.KMEANS_PP_CENTERS)  # best of ten
    order = np.lexsort((found[:, 0], found[:, 1].round(-1)))
    centres = found[order]
    left, top, right, bottom = (int(v) for v in (*centres.min(0).round(), *centres.max(0).round()))
    side = SIDE // 2
    box_left = round((left + right - side) / 2)
    box_bottom = bottom + MARGIN
    box = (box_left, box_bottom - side, box_left + side, box_bottom)
    if box[0] < 0 or box[1] < 0 or box[2] > SIDE or box[3] > SIDE or left < box[0] or top < box[1] or right > box[2]:
        raise ValueError(f'the cluster centres span x {left}..{right}, y {top}..{bottom}: no {side}-pixel box within a '
                         f'{SIDE}-pixel face holds them; are the faces aligned?')
    return KeyRegion(tuple((float(x), float(y)) for x, y in centres), (left, top, right, bottom), box,
                     np.argsort(order)[labels.reshape(len(points), POINTS)])


def plot_key_region(landmarks: np.ndarray, region: KeyRegion, path: str | os.PathLike) -> None:
    """Write figure 4 of the paper: every key point in the colour of its cluster, the centres, their bounds and the box.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    figure = require('matplotlib.figure', 'plot').Figure(figsize=(6, 6), layout='constrained')
    axes = figure.add_subplot(xlim=(0, SIDE), ylim=(SIDE, 0), aspect='equal', xlabel='x (pixels)', ylabel='y (pixels)',
                              title=f'Key points of {len(landmarks)} aligned faces')
    points = np.asarray(landmarks).reshape(-1, 2)
    axes.scatter(*points.T, s=4, c=region.clusters.ravel(), cmap='tab10', vmin=0, vmax=9, alpha=0.4, linewidths=0)
    axes.scatter(*np.array(region.centres).T, marker='x', color='black', label='cluster centres')
    for (x0, y0, x1, y1), style, label in ((region.bounds, ':', 'extremes of the centres'), (region.box, '-', 'key region')):
        axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], style, color='black', label=f'{label} [{x0}:{x1}, {y0}:{y1}]')
    axes.legend(loc='lower left', fontsize='small')
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=os.path.splitext(path)[1][1:] or 'png', dpi=150)
