"""The times that paper 001 prints with the complexity of each network, and the latency models fitted to them.

  python benchmarks/paper_latency.py

Writes zoo/data/paper_latency.csv (times, MACs and feature-map output from the paper, as in zoo/papers/fdfacenet.yaml; the other
columns are counted on the zoo's networks) and zoo/data/latency/*.json.

Needs: nothing
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator

import torch
import yaml

import zoo
from zoo.latency import DATA, FEATURES, PAPER_PROFILES, TIMES, features_of, fit, paper_points

UNITS = {'G': 1000, '': 1}


def printed_rows() -> Iterator[tuple[str, dict, dict[str, float]]]:
    """Model, options and printed figures of every row that has a time."""
    paper = yaml.safe_load((DATA.parent / 'papers' / 'fdfacenet.yaml').read_text())
    for number, table in paper['tables'].items():
        for row in table['rows']:
            if 'model' in row and any(column in row.get('cited', {}) for column in TIMES):
                figures = {key: float(text.split()[0]) * UNITS[text.partition(' ')[2]] for key, text in row['printed'].items()}
                # two rows (FDFN*, DWFN*) are printed fused only: about 1 ms of the RK3288 fit
                figures['feature_map'] = figures.get('feature_map_mb', figures.get('feature_map_mb_fused', math.nan))
                figures['macs'] = figures.get('macs_m', 1000 * figures.get('gmacs_thop', math.nan))
                times = {key: value for key, value in row['cited'].items() if key in TIMES}
                yield number, {**table.get('options', {}), **row.get('options', {})}, figures | times | {'row': row}


def networks() -> list[dict]:
    """One row a network, whatever number of tables it stands in; the first printed figure counts."""
    merged: dict[tuple, dict] = {}
    for number, options, figures in printed_rows():
        row = figures['row']
        key = (row['model'], json.dumps(options, sort_keys=True))
        found = merged.setdefault(key, {'model': row['name'], 'tables': '', 'backbone': key[0], 'options': key[1]})
        found['tables'] = f'{found["tables"]} {number}'.strip()
        for column in ('macs', 'feature_map', *TIMES):
            if not math.isnan(value := figures.get(column, math.nan)):
                found.setdefault(column, value)
    return [_counted(row) | row for row in merged.values()]


def _counted(row: dict) -> dict[str, str]:
    if zoo.card(row['backbone']).fidelity == 'stand-in':
        return {}  # its own structure is not the one that was timed
    with torch.device('meta'):
        network = zoo.create(row['backbone'], **json.loads(row['options']))
    return {key: f'{value:.6g}' for key, value in features_of(zoo.profile(network)).items()}


def main() -> None:
    with open(DATA / 'paper_latency.csv', 'w', newline='') as file:
        file.write('# made by benchmarks/paper_latency.py\n')
        writer = csv.DictWriter(file, ['model', 'tables', 'backbone', 'options', *FEATURES, *TIMES], lineterminator='\n')
        writer.writeheader()
        writer.writerows(networks())
    (DATA / 'latency').mkdir(exist_ok=True)
    for name, wanted in PAPER_PROFILES.items():
        model = fit(paper_points(wanted.column, wanted.features, wanted.most_macs), wanted.features, wanted.device,
                    relative=wanted.relative)
        model.save(DATA / 'latency' / f'{name}.json')
        print(f'{name}: {model}')


if __name__ == '__main__':
    main()
