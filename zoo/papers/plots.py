"""The papers' figures, redrawn: times and accuracies are the papers', complexities are ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

from zoo.papers.tables import Paper, Table
from zoo.plots import label_points, sheet

__all__ = ['draw_figures']

_LABELS = {'macs_m': 'computation (million MACs, ours)', 'raspberry_pi_4b_ms': 'Raspberry Pi 4B, NCNN (ms, the paper)',
           'jetson_tx2_ms': 'Jetson TX2, PyTorch (ms, the paper)', 'lfw_percent': 'LFW accuracy (%, the paper)',
           'percent': 'accuracy (%, the paper)', 'accuracy (%)': 'accuracy (%, the paper)'}


def draw_figures(paper: Paper, folder: str | os.PathLike) -> list[Path]:
    """Write ``folder/PAPER-FIGURE.png`` for every figure in the paper's data file; returns the paths.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    tables, written = {table.id: table for table in paper.tables}, []
    for facts in paper.figures:
        path = Path(folder) / f'{paper.name}-{facts["name"]}.png'
        kind = next((kind for kind in _KINDS if kind in facts), 'x')
        with sheet(path, title=facts['title'], ylabel=_LABELS.get(facts['y'], facts['y'])) as axes:
            _KINDS[kind](axes, tables[str(facts['table'])], facts)
        written.append(path)
    return written


def _scatter(axes, table: Table, facts: Mapping) -> None:
    """Rows as points; ``series`` joins the rows whose names begin with a prefix."""
    axes.set_xlabel(_LABELS.get(facts['x'], facts['x']))
    named = []
    for label, prefix in facts.get('series', {'': ''}).items():
        points = sorted((x.value, y.value, row.removeprefix(prefix)) for row in table.rows if row.startswith(prefix)
                        and (x := table.get(row, facts['x'])) and (y := table.get(row, facts['y'])))
        axes.plot([p[0] for p in points], [p[1] for p in points], 'o-' if label else 'o', label=label)
        named += points
    label_points(axes, named)
    if 'series' in facts:
        axes.legend()


def _bars(axes, table: Table, facts: Mapping) -> None:
    """Rows as groups of bars, one a measure."""
    width = 0.8 / len(facts['bars'])
    for number, measure in enumerate(facts['bars']):
        heights = [table.get(row, measure).value for row in table.rows]
        axes.bar([i + width * number for i in range(len(heights))], heights, width, label=measure.removesuffix('_percent'))
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(table.rows))], table.rows)
    axes.set_ylim(85, 100)
    axes.get_figure().legend(loc='outside lower center', ncols=len(facts['bars']))  # inside it would hide bars


def _curves(axes, table: Table, facts: Mapping) -> None:
    """Rows as lines over the measures."""
    axes.set_xlabel('down-sampling')
    for marker, row in zip(cycle('os^vDPX'), table.rows):  # not everybody sees the colours
        cells = [(measure, cell.value) for measure in facts['curves'] if (cell := table.get(row, measure))]
        axes.plot([m for m, _ in cells], [value for _, value in cells], f'{marker}-', label=row)
    axes.legend(fontsize=8)


_KINDS = {'bars': _bars, 'curves': _curves, 'x': _scatter}
