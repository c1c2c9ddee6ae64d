"""The papers' figures, redrawn: times and accuracies are the papers', complexities are ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from plugins.extras import require
from plugins.files import atomic_path
from zoo.papers.tables import Paper, Table

__all__ = ['draw_figures']

_LABELS = {'macs_m': 'computation (million MACs, ours)', 'raspberry_pi_4b_ms': 'Raspberry Pi 4B, NCNN (ms, the paper)',
           'jetson_tx2_ms': 'Jetson TX2, PyTorch (ms, the paper)', 'lfw_percent': 'LFW accuracy (%, the paper)',
           'percent': 'accuracy (%, the paper)', 'accuracy (%)': 'accuracy (%, the paper)'}


def draw_figures(paper: Paper, folder: str | os.PathLike) -> list[Path]:
    """Write ``folder/PAPER-FIGURE.png`` for every figure in the paper's data file; returns the paths.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    make = require('matplotlib.figure', 'plot').Figure
    tables, written = {table.id: table for table in paper.tables}, []
    for facts in paper.figures:
        figure = make(figsize=(7, 4.5), layout='constrained')
        axes = figure.add_subplot(title=facts['title'], ylabel=_LABELS.get(facts['y'], facts['y']))
        kind = next((kind for kind in _KINDS if kind in facts), 'x')
        _KINDS[kind](axes, tables[str(facts['table'])], facts)
        axes.grid(alpha=0.3)
        path = Path(folder) / f'{paper.name}-{facts["name"]}.png'
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format='png', dpi=150)
        written.append(path)
    return written


def _scatter(axes, table: Table, facts: Mapping) -> None:
    """Rows as points; ``series`` joins the rows whose names begin with a prefix."""
    axes.set_xlabel(_LABELS.get(facts['x'], facts['x']))
    for label, prefix in facts.get('series', {'': ''}).items():
        points = [(x.value, y.value, row) for row in table.rows if row.startswith(prefix)
                  and (x := table.get(row, facts['x'])) and (y := table.get(row, facts['y']))]
        points.sort()
        axes.plot([p[0] for p in points], [p[1] for p in points], 'o-' if label else 'o', label=label)
        for x, y, row in points:
            axes.annotate(row.removeprefix(prefix), (x, y), xytext=(4, 4), textcoords='offset points', fontsize=8)
    if 'series' in facts:
        axes.legend()


def _bars(axes, table: Table, facts: Mapping) -> None:
    """Rows as groups of bars, one a measure."""
    width = 0.8 / len(facts['bars'])
    for number, measure in enumerate(facts['bars']):
        heights = [table.get(row, measure).value for row in table.rows]
        axes.bar([i + width * number for i in range(len(heights))], heights, width, label=measure.removesuffix('_percent'))
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(table.rows))], table.rows)
    axes.set_ylim(bottom=85)
    axes.legend(loc='lower right')


def _curves(axes, table: Table, facts: Mapping) -> None:
    """Rows as lines over the measures."""
    axes.set_xlabel('down-sampling')
    for row in table.rows:
        cells = [(measure, cell.value) for measure in facts['curves'] if (cell := table.get(row, measure))]
        axes.plot([m for m, _ in cells], [value for _, value in cells], 'o-', label=row)
    axes.legend(fontsize=8)


_KINDS = {'bars': _bars, 'curves': _curves, 'x': _scatter}
