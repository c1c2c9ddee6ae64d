"""Latency models: the papers' formulas, and non-negative fits of measured times to complexity features.

Paper 001 eq. 4 says ``T = B / (alpha P) + F / (theta D) + tau``: linear in MACs and feature-map output. Inside one family that
holds; across families it does not (R2 0.21 on the paper's own Jetson TX2 figures, where time follows the number of layers),
because efficiency depends on the kind of convolution. So features are chosen per device, the error is always stated
(R2, mean absolute percentage error, and the same leaving each point out in turn), and nothing is predicted outside the range
that was measured.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plugins.extras import require
from plugins.files import write_atomic

if TYPE_CHECKING:
    from zoo.complexity import Profile

__all__ = ['FEATURES', 'PAPER_PROFILES', 'TIMES', 'LatencyModel', 'OutOfRange', 'Point', 'bench_points', 'features_of', 'fit',
           'flops_rate', 'list_latency', 'load_latency', 'paper_points', 'points_of', 'ratio_feature_map', 'ratio_macs',
           'ratio_macs_fast', 'widest']

_LOG = logging.getLogger(__name__)

DATA = Path(__file__).parent / 'data'
FEATURES = {
    'macs': "MACs in the papers' convention, millions",
    'feature_map': "feature-map output in the papers' convention, MB",
    'weights': 'float32 weights, MB',
    'layers': 'convolutions and fully connected layers',
    'conv3x3': 'MACs of dense k x k convolutions with stride 1, millions',
    'strided': 'MACs of dense k x k convolutions with a stride, millions',
    'pointwise': 'MACs of 1x1 convolutions and fully connected layers, millions',
    'depthwise': 'MACs of depthwise and grouped convolutions, millions',
}
# columns of times that paper 001 prints
TIMES = {'raspberry_pi_4b_ms': 'Raspberry Pi 4B, NCNN', 'rk3288_ms': 'RK3288, NCNN',
         'jetson_tx2_ms': 'Jetson TX2, PyTorch on the GPU'}


# --- paper 001, section 2 ----------------------------------------------------------------------------------------------------

def ratio_macs(channels: int, kernel: int = 3) -> float:
    """R_B of eq. 1: MACs of a standard over those of a depthwise separable convolution, ``K^2 N / (K^2 + N)``."""
    return kernel ** 2 * channels / (kernel ** 2 + channels)


def ratio_feature_map(channels_in: int, channels_out: int) -> float:
    """R_F of eq. 2: feature-map output of a standard over that of a depthwise separable convolution, ``N / (M + N)``."""
    return channels_out / (channels_in + channels_out)


def ratio_macs_fast(channels: int, reduction: float, kernel: int = 3) -> float:
    """R'_B of eq. 7: MACs depthwise separable over standard on a ``reduction`` times smaller side (exact, not ``R^2/K^2``)."""
    return (kernel ** 2 + channels) * reduction ** 2 / (kernel ** 2 * channels)


def flops_rate(macs_millions: float, milliseconds: float) -> float:
    """Eq. 3: average rate ``B / t`` in million MACs a second."""
    return 1000 * macs_millions / milliseconds


# --- fits --------------------------------------------------------------------------------------------------------------------

class OutOfRange(ValueError):
    """A prediction was asked for a network unlike those that were measured."""


@dataclass(frozen=True)
class Point:
    """A network's features and its measured time."""

    name: str
    features: Mapping[str, float]
    milliseconds: float


@dataclass(frozen=True)
class LatencyModel:
    """``T = constant + sum coefficient * feature`` with all coefficients at least zero, in milliseconds.

    Attributes:
        device: what was measured, in words.
        relative: fitted on relative error (small networks count as much as large ones).
        points: how many networks; r2, mape: on the points themselves; loo: mean absolute percentage error leaving each network
            out in turn.
        ranges: smallest and largest value of each feature among the points, and of ``macs`` where all points have it: what is
            fitted to layers alone knows nothing of ten times the work in as many layers.
    """

    device: str
    coefficients: Mapping[str, float]
    constant: float
    relative: bool
    points: int
    r2: float
    mape: float
    loo: float
    ranges: Mapping[str, tuple[float, float]]

    def predict(self, features: Mapping[str, float], slack: float = 0.1) -> float:
        """Predicted milliseconds.

        Args:
            features: of the network, all of ``ranges``; :func:`features_of` gives them.
            slack: how far outside the measured range of a feature is still accepted, as a fraction of its upper end.

        Raises:
            OutOfRange: a feature lies outside; the message names it.
        """
        for name, (low, high) in self.ranges.items():
            if not low - slack * high <= features[name] <= high * (1 + slack):
                raise OutOfRange(f'{name} = {features[name]:.4g} lies outside the measured {low:.4g} to {high:.4g} of '
                                 f'{self.device}: measure such a network on the device and fit again')
        return self.constant + sum(value * features[name] for name, value in self.coefficients.items())

    def save(self, path: str | os.PathLike) -> None:
        """Write as JSON."""
        write_atomic(path, json.dumps(asdict(self), indent=1) + '\n')


def fit(points: Sequence[Point], features: Sequence[str], device: str, constant: bool = True, relative: bool = False
        ) -> LatencyModel:
    """Non-negative least squares of measured times.

    Args:
        features: names of :data:`FEATURES`.
        constant: fit tau as well.
        relative: weigh every point by one over its time.

    Raises:
        ValueError: a feature is unknown or named twice, a point lacks one, or fewer networks than coefficients + 1.
    """
    unknown = [name for name in features if name not in FEATURES]
    if unknown:
        raise ValueError(f'unknown feature {unknown[0]!r}; known: {", ".join(FEATURES)}')
    twice = [name for name in features if list(features).count(name) > 1]
    if twice:
        raise ValueError(f'feature {twice[0]!r} is named twice')
    networks = np.array([point.name for point in points])  # one that was measured twice is still one
    if len(set(networks)) < len(features) + constant + 1:
        raise ValueError(f'{len(set(networks))} networks for {len(features) + constant} coefficients; measure at least '
                         f'{len(features) + constant + 1}')
    lacking = [point.name for point in points if any(name not in point.features for name in features)]
    if lacking:
        raise ValueError(f'{lacking[0]} has no value for one of {", ".join(features)}')
    matrix = np.array([[point.features[name] for name in features] + [1.0] * constant for point in points])
    times = np.array([point.milliseconds for point in points])
    solution = _solve(matrix, times, relative)
    found = matrix @ solution
    bounded = dict.fromkeys([*features, *(['macs'] if all('macs' in point.features for point in points) else [])])
    rest = [networks != name for name in networks]
    left_out = np.array([matrix[i] @ _solve(matrix[keep], times[keep], relative) for i, keep in enumerate(rest)])
    return LatencyModel(
        device, dict(zip(features, solution.tolist(), strict=False)), float(solution[-1]) if constant else 0.0, relative,
        len(set(networks)), float(1 - np.square(times - found).sum() / np.square(times - times.mean()).sum()),
        float(np.abs(found / times - 1).mean()), float(np.abs(left_out / times - 1).mean()),
        {name: (min(values), max(values)) for name in bounded for values in [[float(p.features[name]) for p in points]]})


def _solve(matrix: np.ndarray, times: np.ndarray, relative: bool) -> np.ndarray:
    nnls = require('scipy.optimize', 'bench').nnls
    scale = 1 / times if relative else np.ones_like(times)
    columns = np.abs(matrix).max(0)  # features differ by orders of magnitude
    columns[columns == 0] = 1.0  # none of these networks has such layers
    return nnls(matrix / columns * scale[:, None], times * scale)[0] / columns


def list_latency() -> list[str]:
    """Sorted names of the shipped latency models."""
    return sorted(path.stem for path in (DATA / 'latency').glob('*.json'))


def load_latency(name: str | os.PathLike) -> LatencyModel:
    """A shipped model by name (``raspberry-pi-4b-paper``) or a JSON file of :meth:`LatencyModel.save`.

    Raises:
        FileNotFoundError: neither; the message has the names.
        ValueError: a file of something else.
    """
    path = Path(name)
    if path.suffix != '.json':
        path = DATA / 'latency' / f'{name}.json'
    if not path.is_file():
        raise FileNotFoundError(f'{path.name}: no such latency model; shipped: {", ".join(list_latency())}')
    try:
        data = json.loads(path.read_text())
        return LatencyModel(**data | {'ranges': {key: (low, high) for key, (low, high) in data['ranges'].items()}})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: not a latency model of 'facezoo latency fit' ({type(error).__name__}: {error})") from None


def features_of(profile: Profile) -> dict[str, float]:
    """All :data:`FEATURES` of a :class:`zoo.complexity.Profile`."""
    millions = dict.fromkeys(('conv3x3', 'strided', 'pointwise', 'depthwise'), 0.0)
    layers = 0
    for layer in profile.layers:
        if layer.macs:
            layers += 1
            millions[_convolution_type(layer.kind)] += layer.macs / 1e6
    return {'macs': profile.macs_paper / 1e6, 'feature_map': profile.feature_map_mb_paper, 'weights': 4 * profile.params / 1e6,
            'layers': float(layers), **millions}


def _convolution_type(kind: str) -> str:
    if kind.startswith('depthwise') or ' g' in kind:
        return 'depthwise'
    if kind.startswith('1x1') or 'x' not in kind:
        return 'pointwise'
    return 'strided' if '/' in kind else 'conv3x3'


@dataclass(frozen=True)
class PaperProfile:
    """How a shipped model is fitted to the paper's times: the choice with the smallest leave-one-out error."""

    column: str
    features: tuple[str, ...]
    relative: bool
    most_macs: float = math.inf

    @property
    def device(self) -> str:
        return f'{TIMES[self.column]} (times printed in paper 001)'


PAPER_PROFILES = {
    'raspberry-pi-4b-paper': PaperProfile('raspberry_pi_4b_ms', ('conv3x3', 'strided', 'pointwise', 'depthwise'), False, 2000),
    'rk3288-paper': PaperProfile('rk3288_ms', ('macs', 'feature_map'), True),
    'jetson-tx2-paper': PaperProfile('jetson_tx2_ms', ('layers',), False),
}


def paper_points(column: str, features: Sequence[str] = ('macs', 'feature_map'), most_macs: float = math.inf) -> list[Point]:
    """The networks that paper 001 timed (Tables 3, 4, 6, 9, 10, 11), MACs and feature-map output as printed, the rest counted.

    Args:
        column: one of :data:`TIMES`.
        features: networks for which one of these is unknown are left out.
        most_macs: leave out networks with more million MACs.
    """
    with open(DATA / 'paper_latency.csv', newline='') as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith('#')))
    return [Point(row['model'], {name: float(row[name]) for name in FEATURES if row[name]}, float(row[column]))
            for row in rows if row[column] and float(row['macs']) <= most_macs and all(row[name] for name in features)]


def bench_points(path: str | os.PathLike, runtime: str | None = None) -> tuple[list[Point], str]:
    """Points at batch 1 from the JSON of ``facezoo bench``, and the machine in words.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, or several runtimes or thread counts at once.
        KeyError: a label that is no backbone.
    """
    try:
        data = json.loads(Path(path).read_text())
        rows = [row for row in data['results'] if row['batch'] == 1 and row['runtime'] == (runtime or row['runtime'])]
        kinds = {(row['runtime'], row['threads']) for row in rows}
        facts, date = data['machine'], data['machine']['date']
        device = facts.get('board') or facts['processor']
        if strange := [row for row in rows if not 0 < row['p50'] < math.inf]:
            raise ValueError(f'{strange[0]["label"]} has p50 {strange[0]["p50"]}, which is no time')
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the JSON of 'facezoo bench' ({type(error).__name__}: {error})") from None
    if len(kinds) != 1:
        raise ValueError(f'{path} has {sorted(kinds) or "no rows"} at batch 1, but one runtime and thread count is fitted '
                         'at a time; choose it with --runtime, and measure each thread count into a file of its own')
    used, threads = kinds.pop()
    return points_of(rows), f'{device}, {used}, {threads} threads ({date})'


def points_of(rows: Sequence[Mapping]) -> list[Point]:
    """Points of rows with a ``label`` that names a backbone and ``p50`` milliseconds, as ``facezoo bench`` writes them.

    Raises:
        KeyError: a label that is no backbone.
    """
    return [Point(row['label'], features_of(_profile(row['label'])), row['p50']) for row in rows]


def widest(name: str, model: LatencyModel, budget: float, step: float = 0.05, **options) -> tuple[float, float, Profile]:
    """The largest width of a family, in steps, whose predicted time is within a budget. That wider ones are not predicted is
    logged.

    Returns:
        Width, milliseconds and the profile at that width.

    Raises:
        ValueError: no width that the latency model may predict fits.
    """
    found = predicted = refused = None
    for number in range(round(0.25 / step), round(2 / step) + 1):
        width = number * step
        profile = _profile(name, width=width, **options)
        try:
            predicted = (width, model.predict(features_of(profile)), profile)
        except OutOfRange as error:
            refused = error
            continue
        if predicted[1] <= budget:
            found = predicted
    if found is None:
        raise ValueError(f'no width of {name} from 0.25 to 2 is predicted within {budget:g} ms on {model.device}'
                         + (f' ({refused})' if refused else ''))
    if found is predicted and profile is not found[2]:  # none was too slow, but the widest was refused
        _LOG.warning('wider networks may be within the budget, too, but are not predicted: %s', refused)
    return found


def _profile(name: str, **options) -> Profile:
    import zoo
    torch = require('torch', 'torch')
    with torch.device('meta'):
        return zoo.profile(zoo.create(name, **options))
