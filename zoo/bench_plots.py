"""Figures of a benchmark: time by model, against MACs and feature-map output with a fitted line, and accuracy against time.

They are figures 1, 3, 5 and 6 of paper 001 with times measured here instead of the paper's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from zoo.latency import FEATURES, Point, fit, points_of
from zoo.model_card import list_models, weights_of
from zoo.plots import label_points, sheet

__all__ = ['draw_bench']

MILLISECONDS = 'milliseconds a face (p50)'


def draw_bench(facts: Mapping, folder: str | os.PathLike) -> list[Path]:
    """Write the figures that the JSON of ``facezoo bench`` has the points for into ``folder``; returns their paths.

    ``latency.png`` shows all rows. The others show the rows at batch 1 that bear a name of the zoo, a series for each runtime
    and number of threads: ``latency-macs.png`` and ``latency-feature_map.png`` from three models on, with a line fitted by
    :func:`zoo.latency.fit`, and ``accuracy.png`` for weights whose card has a measured LFW accuracy.

    Raises:
        MissingExtra: matplotlib or scipy is not installed.
    """
    folder, machine = Path(folder), f'{facts["machine"]["board"] or facts["machine"]["processor"]}, {facts["machine"]["date"]}'
    known = set(list_models(task='recognition'))
    series: dict[str, list[Mapping]] = {}
    for row in facts['results']:
        if row['batch'] == 1 and row['label'].partition('.')[0] in known:
            series.setdefault(f'{row["runtime"]}, {row["threads"]} thread{"s" * (row["threads"] > 1)}', []).append(row)
    written = [_times(facts['results'], machine, folder / 'latency.png')]
    # another set of weights takes the same time: it belongs into the figure of accuracy only
    points = {name: points_of([row for row in rows if '.' not in row['label']]) for name, rows in series.items()}
    if any(_fits(found) for found in points.values()):
        written += [_against(feature, points, machine, folder / f'latency-{feature}.png')
                    for feature in ('macs', 'feature_map')]
    accurate = {name: [row for row in rows if _lfw(row['label'])] for name, rows in series.items()}
    if any(accurate.values()):
        written.append(_accuracy(accurate, machine, folder / 'accuracy.png'))
    return written


def _times(rows: Sequence[Mapping], machine: str, path: Path) -> Path:
    names = [f'{row["label"]}, {row["runtime"]}, batch {row["batch"]}, {row["threads"]} th.' for row in rows]
    times = np.array([row['p50'] for row in rows])
    with sheet(path, (7, 1.2 + 0.3 * len(rows)), title=machine, xlabel='milliseconds a call (p50, whisker p90)') as axes:
        places = range(len(rows))  # not the names: the bars of two that are called alike would lie on each other
        axes.barh(places, times, xerr=[0 * times, np.maximum(0, [row['p90'] for row in rows] - times)], capsize=3)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
    return path


def _against(feature: str, series: Mapping[str, Sequence[Point]], machine: str, path: Path) -> Path:
    named: dict[str, tuple[float, float]] = {}  # the slowest of each model's points bears its name
    with sheet(path, title=machine, xlabel=FEATURES[feature], ylabel=MILLISECONDS) as axes:
        for name, points in series.items():
            x, y = np.array([(point.features[feature], point.milliseconds) for point in points]).T
            line = ''
            dots = axes.plot(x, y, 'o')[0]
            if _fits(points):
                model = fit(points, [feature], name)
                ends = np.array([0, x.max()])
                axes.plot(ends, model.constant + model.coefficients[feature] * ends, '--', color=dots.get_color(), alpha=0.6)
                line = f': R2 {round(model.r2, 2) + 0:.2f} over {model.points}'  # + 0: never -0.00
            dots.set_label(name + line)
            named |= {point.name: max(named.get(point.name, (0, 0)), place)
                      for point, place in zip(points, zip(x, y, strict=True), strict=True)}
        axes.set_ylim(bottom=0)
        label_points(axes, [(*place, name) for name, place in named.items()])
        axes.legend(fontsize=8)
    return path


def _fits(points: Sequence[Point]) -> bool:
    """Whether there are networks enough for a line; one that was measured twice is still one."""
    return len({point.name for point in points}) >= 3


def _accuracy(series: Mapping[str, Sequence[Mapping]], machine: str, path: Path) -> Path:
    named, title = [], f'{machine}; accuracy from the cards'
    with sheet(path, title=title, xlabel=MILLISECONDS, ylabel='LFW accuracy, measured (%)') as axes:
        for name, rows in series.items():
            points = [(row['p50'], 100 * _lfw(row['label']), row['label']) for row in rows]
            axes.plot([p[0] for p in points], [p[1] for p in points], 'o', label=name)
            named += points
        low, high = axes.get_ylim()
        axes.set_ylim(low, min(high, 100))
        label_points(axes, named)
        axes.legend(fontsize=8)
    return path


def _lfw(name: str) -> float | None:
    """Measured 10-fold LFW accuracy of the weights of that name, a fraction."""
    weights = weights_of(name)
    return weights.metrics.get('lfw', {}).get('accuracy') if weights else None
