"""What all figures share: a sheet to draw on, points with names beside them, and the file that appears when it is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from plugins.extras import require
from plugins.files import atomic_path

__all__ = ['label_points', 'sheet']


@contextmanager
def sheet(path: str | os.PathLike, size: tuple[float, float] = (7, 4.5), **labels: str) -> Iterator:
    """Matplotlib axes to draw on; the PNG is written when the block ends.

    Args:
        size: in inches, at 150 pixels each.
        labels: ``title``, ``xlabel``, ``ylabel``.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    figure = require('matplotlib.figure', 'plot').Figure(figsize=size, layout='constrained')
    axes = figure.add_subplot(**labels)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    yield axes
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format='png', dpi=150)


def label_points(axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write each point's name beside it, where it neither leaves the axes nor covers a point or another name (as far as there
    is such a place). Call it when everything is drawn."""
    axes.margins(x=0.08, y=0.1)
    figure = axes.get_figure()
    figure.draw_without_rendering()  # gives the axes their place
    scale = 72 / figure.dpi  # pixels to points
    dots = [tuple(scale * axes.transData.transform(point[:2])) for point in points]
    frame = [scale * value for value in axes.get_window_extent().extents]
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in dots]
    for (x, y), point in sorted(zip(dots, points, strict=True), key=lambda pair: pair[0][1]):
        dx, dy, box = next(((dx, dy, box) for dx, dy in _PLACES if _fits(box := _box(x, y, dx, dy, point[2]), frame, taken)),
                           (*_PLACES[0], _box(x, y, *_PLACES[0], point[2])))
        taken.append(box)
        line = {'arrowstyle': '-', 'lw': 0.4, 'color': 'grey', 'shrinkA': 0, 'shrinkB': 2} if abs(dy) > _NEAR else None
        axes.annotate(point[2], point[:2], xytext=(dx, dy), textcoords='offset points', fontsize=_FONT, arrowprops=line,
                      ha='left' if dx > 0 else 'right')


_FONT, _NEAR = 8, 10  # points
# offsets of a name from its point, the preferred first; farther ones get a line
_PLACES = [(dx, dy) for dy in (3, -8, *(sign * 10 * n + 3 for n in range(1, 9) for sign in (1, -1))) for dx in (5, -5)]
_Box = tuple[float, float, float, float]


def _box(x: float, y: float, dx: float, dy: float, text: str) -> _Box:
    """Where a name of the sans-serif font comes to lie: left, bottom, right, top in points."""
    width = 0.58 * _FONT * len(text)
    return (x + dx - width * (dx < 0), y + dy - 2, x + dx + width * (dx > 0), y + dy + _FONT)


def _fits(box: _Box, frame: Sequence[float], taken: Sequence[_Box]) -> bool:
    inside = frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]
    return inside and not any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken)
