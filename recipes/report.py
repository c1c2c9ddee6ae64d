"""What came out of a study, beside what its paper says, from the results alone."""

from __future__ import annotations

import base64
import math
import os
import statistics
from dataclasses import dataclass, field

import numpy as np

from plugins.extras import require
from zoo.plots import sheet

__all__ = ['Study', 'pack_decisions', 'plot_curves', 'report']


@dataclass(frozen=True)
class Study:
    """A comparison.

    Attributes:
        claim: what the paper says about the ordering; recipe: what all runs share.
        runs: overrides by label; ``@label`` in ``teachers`` stands for the output of that run with the same seed.
        lowres: measure at x1, x2, x4, x8 as well.
        helpers: labels that only teach and are left out of the report.
        expect: pairs of labels, the better one first, as the paper orders them.
    """

    name: str
    title: str
    claim: str
    recipe: str
    runs: dict
    seeds: tuple[int, ...] = (1, 2, 3)
    overrides: dict = field(default_factory=dict)
    lowres: bool = False
    helpers: tuple[str, ...] = ()
    expect: tuple[tuple[str, str], ...] = ()


def report(study: Study, rows: list[dict]) -> str:
    """Markdown: mean and standard deviation over seeds, best first by the last set's accuracy; then the paper's orderings."""
    shown = [label for label in study.runs if label not in study.helpers and any(row['run'] == label for row in rows)]
    sets = _common_sets(rows)
    columns = [(name, key) for name in sets for key in ('accuracy', 'tar@1e-3')]
    lowres = bool(study.lowres and sets and all('lowres' in row['results'][sets[-1]] for row in rows))
    if lowres:
        columns += [(sets[-1], f'lowres x{f}') for f in (1, 2, 4, 8)]
    head = f'| {" | ".join(["run", "seeds", *(f"{name} {key} %" for name, key in columns)])} |'
    lines = [f'# {study.title}', '', f'Paper: {study.claim}', '', head, '|---' * (2 + len(columns)) + '|']
    if sets:
        shown.sort(key=lambda label: -statistics.fmean(_values(rows, label, columns[-1 if lowres else -2])))
    for label in shown:
        seeds = sum(row['run'] == label for row in rows)
        lines.append(f'| {" | ".join([label, str(seeds), *(_mean(_values(rows, label, column)) for column in columns)])} |')
    lines += _orderings(study, rows, shown, sets[-1]) if sets and lowres == study.lowres else []
    missing = sorted(set(study.runs) - set(shown) - set(study.helpers))
    notes = [f'Recipe `{study.recipe}` with {study.overrides}; flip sum; last weights of each run.']
    for what, key in (('Images a run', 'images'), ('Precision', 'precision')):
        notes += [f'{what}: {", ".join(sorted({str(row[key]) for row in rows}))}.'] if rows else []
    scatter, freedom = _scatter(rows, sets[-1], 'accuracy') if sets else (0.0, 0)
    if freedom:
        notes.append(f'Seeds scatter by {scatter ** 0.5:.2f} points of accuracy, over all runs of several; the errors of '
                     'differences hold that and the draw of the pairs.')
    elif rows:
        notes.append('The errors are those of the pairs alone, with one seed a run: another seed may turn what is close.')
    if rows and not sets:
        notes.append('There is no set that all runs were measured on (`--set`) with the same number of pairs.')
    notes += [f'Not run yet: {", ".join(missing)}.'] if missing else []
    return '\n'.join([*lines, '', *notes]) + '\n'


def _common_sets(rows: list[dict]) -> list[str]:
    """Names of the sets that all runs were measured on: earlier rows may lack one that was named later, and a name with another
    number of pairs is another set."""
    return [name for name in (rows[-1]['results'] if rows else ())
            if len({row['results'].get(name, {}).get('pairs') for row in rows}) == 1]


def _orderings(study: Study, rows: list[dict], shown: list[str], name: str) -> list[str]:
    """The paper's pairs, and whether they hold here.

    The error of a difference has two parts: another draw of the pairs would change it, and so would other seeds. Runs are told
    apart when they differ by more than two errors, or still more where few seeds say how much they scatter (:func:`_least`).
    The scatter is pooled over all runs of several seeds, since the two or three of one run say too little.
    """
    pairs = [pair for pair in study.expect if set(pair) <= set(shown)]
    if not pairs:
        return []
    keys = [f'lowres x{f}' for f in (2, 4, 8)] if study.lowres else ['accuracy']  # where the papers print their orderings
    lines = ['', f'| the paper has | {name} {" | ".join(keys)} | verdict |', '|---' * (2 + len(keys)) + '|']
    for pair in pairs:
        gains, verdicts = zip(*(_compare(rows, pair, name, key) for key in keys), strict=True)
        verdict = verdicts[0] if len(set(verdicts)) == 1 else ', '.join(verdicts)
        lines.append(f'| {" > ".join(pair)} | {" | ".join(gains)} | {verdict} |')
    return lines


def _compare(rows: list[dict], pair: tuple[str, str], name: str, key: str) -> tuple[str, str]:
    """Gain of the first over the second in points with its standard error, and the verdict."""
    first, second = (_values(rows, label, (name, key)) for label in pair)
    gain = statistics.fmean(first) - statistics.fmean(second)
    scatter, freedom = _scatter(rows, name, key)
    of_seeds = scatter * (1 / len(first) + 1 / len(second))
    error = (_of_pairs(rows, pair, name, key) + of_seeds) ** 0.5
    verdict = 'not told apart' if abs(gain) <= _least(error, of_seeds, freedom) * error else 'holds' if gain > 0 else 'reversed'
    return f'{gain:+.2f} +- {error:.2f}', verdict


def _least(error: float, of_seeds: float, freedom: int) -> float:
    """How many standard errors a difference must exceed: by Student's t as rare as two are where the error is known (4.6 %).

    Args:
        of_seeds: the part of ``error ** 2`` that was estimated from seeds, with so many degrees of ``freedom``; the rest counts
            as known (Welch 1947, Satterthwaite 1946).
    """
    if not of_seeds:
        return 2.0
    quantile = require('scipy.special', 'train').stdtrit
    return float(quantile(freedom * error ** 4 / of_seeds ** 2, (1 + math.erf(2 ** 0.5)) / 2))


def _scatter(rows: list[dict], name: str, key: str) -> tuple[float, int]:
    """Variance between seeds in squared points, pooled over the runs of several seeds, and its degrees of freedom; zeros when
    no run has."""
    runs = [_values(rows, label, (name, key)) for label in {row['run'] for row in rows}]
    several = [values for values in runs if len(values) > 1]
    squares = sum(statistics.variance(values) * (len(values) - 1) for values in several)
    freedom = sum(len(values) - 1 for values in several)
    return squares / max(freedom, 1), freedom


def _of_pairs(rows: list[dict], labels: tuple[str, str], name: str, key: str) -> float:
    """Variance, in squared points, that another draw of the pairs would bring into the difference of two runs.

    Both runs saw the same pairs: where their decisions were kept they are compared pair by pair, those of several seeds as
    means. Otherwise each counts as having pairs of its own, which makes the variance too large rather than too small.
    """
    factor = key.split()[-1] if key.startswith('lowres') else 'x1'
    runs = [[row['results'][name] for row in rows if row['run'] == label] for label in labels]
    kept = [[_unpack_decisions(result['decisions'][factor], result['pairs']) for result in results if 'decisions' in result]
            for results in runs]
    if all(kept):
        first, second = (np.mean(decisions, 0) for decisions in kept)
        return float(np.var(100 * (first - second)) / len(first))
    means = [statistics.fmean(_values(rows, label, (name, key))) for label in labels]
    return sum(mean * (100 - mean) / results[0]['pairs'] for mean, results in zip(means, runs, strict=True))


def pack_decisions(correct: np.ndarray) -> str:
    """Bool ``(P,)`` as text that is short enough for a row of results."""
    return base64.b64encode(np.packbits(correct)).decode()


def _unpack_decisions(text: str, pairs: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=pairs)


def _mean(values: list[float]) -> str:
    """With the standard deviation, where there are several."""
    return f'{statistics.fmean(values):.2f}' + (f' +- {statistics.stdev(values):.2f}' if len(values) > 1 else '')


def _values(rows: list[dict], label: str, column: tuple[str, str]) -> list[float]:
    """A run's figure in percent, one a seed."""
    name, key = column
    results = [row['results'][name] for row in rows if row['run'] == label]
    return [100 * (result['lowres'][key.split()[1]] if key.startswith('lowres') else result[key]) for result in results]


def plot_curves(study: Study, rows: list[dict], path: str | os.PathLike) -> None:
    """Loss over epochs of every run (the sum of its losses), as PNG.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    with sheet(path, title=study.title.partition(':')[0], xlabel='epoch', ylabel='training loss') as axes:
        for index, label in enumerate(label for label in study.runs if label not in study.helpers):
            for row in rows:
                if row['run'] == label and row['curve']:
                    losses = [values for name, values in row['curve'].items() if name != 'epoch']
                    first = label not in axes.get_legend_handles_labels()[1]
                    total = [sum(values) for values in zip(*losses, strict=True)]
                    axes.plot(row['curve']['epoch'], total, color=f'C{index % 10}', ls='-' if index < 10 else '--', lw=1,
                              label=label if first else None)
        axes.legend(fontsize=7)
