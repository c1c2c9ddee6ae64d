"""From a paper's data file to its tables: every printed figure, ours, the deviation and its reason.

A data file has, under ``tables``, rows with a ``name``, the ``printed`` figures (as strings, so that their digits are known),
``cited`` ones that facezoo cannot compute (accuracies, times), and what to count: a ``model`` with ``options``, a
``detector``, or a single ``layer``. Tables with ``layers`` or ``units`` describe the structure of one model.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
import yaml
from torch import nn

from plugins import registry
from plugins.layers import InvertedResidual
from zoo.complexity import Profile, profile
from zoo.papers import FOLDER, list_papers

__all__ = ['Cell', 'Paper', 'Table', 'load_paper']

_UNITS = {'G': 1e3, '': 1.0}  # of a printed figure, relative to the measure's own


@dataclass(frozen=True)
class Counted:
    """A network and its complexity."""

    network: nn.Module
    profile: Profile


# measure: (convention, for the reader; how it is counted)
MEASURES: dict[str, tuple[str, Callable[[Counted], float]]] = {
    'params': ('parameters', lambda c: c.profile.params),
    'params_m': ('million parameters', lambda c: c.profile.params / 1e6),
    'body_params_m': ('million parameters before the last layers', lambda c: sum(
        p.numel() for p in c.network.features.parameters()) / 1e6),
    'macs': ('pure multiply-accumulates', lambda c: c.profile.macs),
    'macs_m': ('million MACs with bias, norm, activation and pooling', lambda c: c.profile.macs_paper / 1e6),
    'gmacs_thop': ("billion MACs by thop's old rule", lambda c: c.profile.macs_thop / 1e9),
    'feature_map_mb': ('MB written and read by layers with parameters', lambda c: c.profile.feature_map_mb_paper),
    'feature_map_mb_fused': ('the same with BatchNorm folded', lambda c: c.profile.feature_map_mb_fused),
    'feature_map_bytes_table2': ('bytes, convolution outputs once', lambda c: c.profile.feature_map_mb_table2 * 1e6),
    'file_mb': ('MB of the state dict as PyTorch writes it', lambda c: _file_bytes(c.network) / 1e6),
}

# the example layers of paper 001's Table 2
LAYERS: dict[str, Callable[[], nn.Module]] = {
    'standard': lambda: nn.Conv2d(128, 128, 3, padding=1, bias=False),
    'grouped': lambda: nn.Conv2d(128, 128, 3, padding=1, groups=4, bias=False),
    'separable': lambda: nn.Sequential(nn.Conv2d(128, 128, 3, padding=1, groups=128, bias=False),
                                       nn.Conv2d(128, 128, 1, bias=False)),
    'strided': lambda: nn.Conv2d(128, 128, 3, 2, 1, bias=False),
}


@dataclass(frozen=True)
class Cell:
    """One figure of one row.

    Attributes:
        printed: as the paper prints it; None where only facezoo has a figure.
        ours: counted on the network; None for what facezoo cannot count.
        exact: every printed digit is met by rounding or truncating ours; None without both figures.
        deviation: ``ours / printed - 1``.
        reason: why the figures differ, or why there is none.
    """

    row: str
    measure: str
    printed: str | None = None
    ours: float | None = None
    exact: bool | None = None
    deviation: float | None = None
    reason: str | None = None

    @property
    def value(self) -> float:
        """Ours, or the paper's where there is none of ours; NaN for neither."""
        return self.ours if self.ours is not None else math.nan if self.printed is None else _number(self.printed)[0]


@dataclass(frozen=True)
class Table:
    """A table of a paper; ``cells`` row by row."""

    id: str
    title: str
    note: str
    cells: tuple[Cell, ...]

    @property
    def rows(self) -> list[str]:
        return list(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def measures(self) -> list[str]:
        return list(dict.fromkeys(cell.measure for cell in self.cells))

    def get(self, row: str, measure: str) -> Cell | None:
        return next((cell for cell in self.cells if (cell.row, cell.measure) == (row, measure)), None)


@dataclass(frozen=True)
class Paper:
    """A paper's tables, and what its figures show of them."""

    name: str
    citation: str
    tables: tuple[Table, ...]
    figures: tuple[Mapping, ...]


def load_paper(name: str) -> Paper:
    """The tables of a paper with our figures, counted now.

    Raises:
        LookupError: no such paper.
        ValueError: its data file names a measure or a layer that does not exist.
    """
    if name not in list_papers():
        raise LookupError(f'unknown paper {name!r}{registry.suggest(name, list_papers())}')
    data = yaml.safe_load((FOLDER / f'{name}.yaml').read_text())
    tables = tuple(_table(str(key), table) for key, table in data['tables'].items())
    return Paper(name, data['paper'], tables, tuple(data['figures']))


def _table(key: str, table: dict) -> Table:
    structure = next((kind for kind in _STRUCTURES if kind in table), None)
    if structure:
        found = _STRUCTURES[structure](_network(table[structure], tuple(table.get('options', {}).items())))
        if len(found) != len(table['rows']):
            raise ValueError(f'table {key}: {len(table["rows"])} rows, but {table[structure]} has {len(found)} such layers')
        cells = [_compare(row['name'], measure, str(printed), ours.get(measure))
                 for row, ours in zip(table['rows'], found, strict=True) for measure, printed in row['printed'].items()]
    else:
        cells = [cell for row in table['rows'] for cell in _row(row, table)]
    return Table(key, table['title'], table.get('note', ''), tuple(cells))


def _row(row: dict, table: dict) -> list[Cell]:
    printed, reasons = row.get('printed', {}), row.get('reasons', {})
    counted, cells = _count({**row, 'options': {**table.get('options', {}), **row.get('options', {})}}), []
    for measure in [*printed, *(m for m in table.get('measures', ()) if counted and m not in printed)]:
        if measure not in MEASURES:
            raise ValueError(f'row {row["name"]!r}: unknown measure {measure!r}{registry.suggest(measure, MEASURES)}')
        ours = MEASURES[measure][1](counted) if counted else None
        missing = None if counted else f'facezoo has no {row.get("detector", "network")!r} here'
        cells.append(_compare(row['name'], measure, printed.get(measure), ours, reasons.get(measure) or missing))
    return cells + [Cell(row['name'], measure, str(value)) for measure, value in row.get('cited', {}).items()]


def _compare(row: str, measure: str, printed: str | None, ours: float | None, reason: str | None = None) -> Cell:
    if printed is None or ours is None:
        return Cell(row, measure, printed, ours, reason=reason)
    value, unit, digits = _number(printed)
    scaled = ours / unit * 10 ** digits
    exact = round(value / unit * 10 ** digits) in (round(scaled), math.floor(scaled + 1e-9))
    return Cell(row, measure, printed, ours, exact, ours / value - 1 if value else None, None if exact else reason)


def _number(printed: str) -> tuple[float, float, int]:
    """Value, unit and decimals of a printed figure (``2.6 G`` in millions: 2600, 1000, 1)."""
    number, _, unit = printed.partition(' ')
    return float(number) * _UNITS[unit], _UNITS[unit], len(number.partition('.')[2])


def _count(row: dict) -> Counted | None:
    """The network of a row, counted; None for rows that name none."""
    if 'layer' in row:
        layer = LAYERS[row['layer']]()
        return Counted(layer, profile(layer, 28, channels=128))
    if 'model' in row:
        model = _network(row['model'], tuple(sorted((key, _hashable(value)) for key, value in row['options'].items())))
        return Counted(model, _profile(model))
    if 'detector' not in row:
        return None
    model = registry.create_detector(row['detector']).eval()
    return Counted(model, profile(model, tuple(row['input_size'])))


@cache
def _network(name: str, options: tuple) -> nn.Module:
    """A network without memory for its weights: only shapes are counted."""
    with torch.device('meta'):
        return registry.create_backbone(name, **dict(options))


_profile = cache(profile)


def _hashable(value):
    return tuple(value) if isinstance(value, list) else value


def _file_bytes(network: nn.Module) -> int:
    buffer = io.BytesIO()
    torch.save({key: torch.zeros_like(value, device='cpu') for key, value in network.state_dict().items()}, buffer)
    return buffer.tell()


def _layer_rows(network: nn.Module) -> list[dict[str, int]]:
    """Convolutions, fully connected layers and BatchNorm1d in order."""
    rows = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            rows.append({'channels': module.out_channels, 'kernel': module.kernel_size[0], 'stride': module.stride[0],
                         'padding': module.padding[0]})
        elif isinstance(module, nn.Linear):
            rows.append({'channels': module.out_features})
        elif isinstance(module, nn.BatchNorm1d):
            rows.append({'channels': module.num_features})
    return rows


def _unit_rows(network: nn.Module) -> list[dict[str, int]]:
    """Convolutions, runs of inverted residuals with one expansion and one number of channels, and fully connected layers (1x1
    convolutions of one position), in order."""
    rows: list[dict[str, int]] = []
    for unit in (*network.features, *(m for m in network.head.modules() if isinstance(m, nn.Linear))):
        if isinstance(unit, nn.Linear):
            rows.append({'kernel': 1, 'c': unit.out_features, 'n': 1, 's': 1})
        elif isinstance(unit, InvertedResidual):
            expand, depthwise, project = (unit.body[i][0] for i in range(3))
            t, c = expand.out_channels // expand.in_channels, project.out_channels
            if (rows[-1].get('t'), rows[-1]['c']) != (t, c):
                rows.append({'t': t, 'c': c, 'n': 0, 's': depthwise.stride[0]})
            rows[-1]['n'] += 1
        else:
            rows.append({'kernel': unit[0].kernel_size[0], 'c': unit[0].out_channels, 'n': 1, 's': unit[0].stride[0]})
    return rows


_STRUCTURES = {'layers': _layer_rows, 'units': _unit_rows}
