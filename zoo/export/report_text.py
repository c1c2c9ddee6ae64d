"""A deployment report for people: a Markdown page and one picture, both from the report's data alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from plugins.extras import require
from plugins.files import atomic_path
from zoo.tables import markdown_table

__all__ = ['draw_report', 'report_markdown']


def report_markdown(report: Mapping, picture: str) -> str:
    """The page.

    Args:
        report: of :func:`zoo.export.report.make_report`.
        picture: file name of the plot.
    """
    torch, machine = report['torch'], report['machine']
    parts = [
        f'# Deploying {report["model"]}',
        f'Accuracy (at PyTorch\'s thresholds of the ten folds) and TAR on {report["gate_set"]} ({torch["pairs"]} pairs, flip '
        f'test). Latency here: median of batch 1 on one thread of {machine["processor"]} at load '
        f'{machine["load"]}. TensorRT rows are computed on a CPU by the rules of each precision; `verify.py` in the bundle '
        'measures the engine itself.',
        f'![Accuracy and latency of every artefact]({picture})',
        markdown_table(
            ['artefact', 'MB', 'least cosine to PyTorch', 'accuracy', 'points lost', 'TAR@FAR 1e-3', 'latency here ms', 'gate'],
            [['PyTorch FP32', '', '', _percent(torch['accuracy']), '', _percent(torch['tar@1e-3']), '', ''],
             *(_cells(row, torch['accuracy']) for row in report['rows'])])]
    parts += [f'## Notes\n\n{notes}'] if (notes := _notes(report['rows'])) else []
    if report['devices']:
        parts.append('## On devices\n\nBatch 1.\n\n' + markdown_table(
            ['target', 'what', 'kind', 'ms', 'source'],
            [[t['target'], t['what'], t['kind'], _number(t['milliseconds'], 2), t['source']] for t in report['devices']]))
    versions = ', '.join(f'{name} {version}' for name, version in machine['versions'].items())
    return '\n\n'.join([*parts, f'Made {report["created"]} by `facezoo deploy-report` with {versions}.']) + '\n'


def _cells(row: Mapping, baseline: float) -> list[str]:
    lost = None if row['accuracy'] is None else 100 * (baseline - row['accuracy'])
    return [_label(row), _number(row['megabytes'], 2), _number(row['min_cosine'], 5), _percent(row['accuracy']),
            _number(lost, 2), _percent(row['tar']), _number(row['latency_ms'], 2), 'passed' if row['passed'] else '**refused**']


def _notes(rows: Sequence[Mapping]) -> str:
    lines = []
    for row in rows:
        if row['reason']:
            lines.append(f'- {_label(row)}: {row["reason"]}')
        if row['int8_macs'] is not None:
            kept = f'; in floating point: {", ".join(f"`{name}`" for name in row["kept"])}' if row['kept'] else ''
            lines.append(f'- {_label(row)}: {100 * row["int8_macs"]:.0f} % of the arithmetic in 8 bits{kept}')
    return '\n'.join(lines)


def draw_report(report: Mapping, path: str | os.PathLike) -> None:
    """Write the picture as PNG: points of accuracy lost, and latency here, by artefact; refused ones in red.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    rows, baseline = report['rows'], report['torch']['accuracy']
    figure = require('matplotlib.figure', 'plot').Figure(figsize=(10, 1.2 + 0.35 * len(rows)), layout='constrained')
    losses, times = figure.subplots(1, 2, sharey=True)
    names, colours = [_label(row) for row in rows], ['tab:blue' if row['passed'] else 'tab:red' for row in rows]
    _bars(losses, names, [None if row['accuracy'] is None else 100 * (baseline - row['accuracy']) for row in rows], colours)
    losses.set(xlabel=f'points of accuracy lost on {report["gate_set"]}')
    losses.invert_yaxis()
    _bars(times, names, [row['latency_ms'] for row in rows], colours)
    times.set(xlabel='milliseconds here, batch 1, one thread (median)')
    figure.suptitle(f'{report["model"]} (refused in red)')
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format='png', dpi=150)


def _bars(axes, names: Sequence[str], values: Sequence[float | None], colours: Sequence[str]) -> None:
    axes.barh(names, [value or 0.0 for value in values], color=colours)
    for place, (value, colour) in enumerate(zip(values, colours, strict=True)):
        axes.annotate('not measured' if value is None else f'{value:.2f}', (max(value or 0.0, 0.0), place), xytext=(3, 0),
                      textcoords='offset points', va='center', fontsize=8, color=colour)
    axes.margins(x=0.15)  # room for the figures
    axes.grid(axis='x', alpha=0.3)


def _label(row: Mapping) -> str:
    return ' '.join(word for word in (row['form'], row['target'], row['precision']) if word)


def _number(value: float | None, digits: int) -> str:
    return '-' if value is None else f'{value:.{digits}f}'


def _percent(fraction: float | None) -> str:
    return '-' if fraction is None else f'{100 * fraction:.2f} %'
