"""The papers' tables: every printed figure, ours as counted now, the deviation and its reason.

  facezoo tables                                     all papers, as Markdown
  facezoo tables --paper fdfacenet --format json
  facezoo tables --paper fdfacenet --plots figures/    draws the figures as PNG, too

"exact" means that our figure, rounded or truncated, has every printed digit. Accuracies and times are the papers' claims,
never ours.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.papers import list_papers
from zoo.tables import markdown_table

if TYPE_CHECKING:
    from zoo.papers.tables import Cell, Paper, Table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--paper', choices=list_papers(), help='only this paper')
    parser.add_argument('--format', choices=tuple(FORMATS), default='md', help='Markdown, JSON or CSV')
    parser.add_argument('--plots', type=Path, metavar='DIR', help='draw the figures into this folder as PNG')


def run(args: argparse.Namespace) -> None:
    from zoo.papers.tables import load_paper
    papers = [load_paper(name) for name in ([args.paper] if args.paper else list_papers())]
    FORMATS[args.format](papers)
    if args.plots:
        from zoo.papers.plots import draw_figures
        for path in (path for paper in papers for path in draw_figures(paper, args.plots)):
            print(path, file=sys.stderr)


def _records(papers: list[Paper]) -> Iterator[dict]:
    for paper in papers:
        for table in paper.tables:
            for cell in table.cells:
                yield {'paper': paper.name, 'table': table.id, **vars(cell)}


def _print_json(papers: list[Paper]) -> None:
    print(json.dumps(list(_records(papers)), indent=2))


def _print_csv(papers: list[Paper]) -> None:
    records = list(_records(papers))
    writer = csv.DictWriter(sys.stdout, list(records[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(records)


def _print_markdown(papers: list[Paper]) -> None:
    for paper in papers:
        print(f'# {paper.name}\n\n{paper.citation}\n')
        for table in paper.tables:
            heading = f'Table {table.id}' if table.id.isdigit() else table.id.capitalize()
            print(f'## {heading}: {table.title}\n')
            if table.note:
                print(f'{table.note[0].upper()}{table.note[1:]}.\n')
            print(_markdown(table), end='\n\n')


def _markdown(table: Table) -> str:
    from zoo.papers.tables import MEASURES, Cell
    columns = [(m, any(c.ours is not None for c in table.cells if c.measure == m)) for m in table.measures]
    header = ['', *(title for measure, counted in columns for title in ((f'{measure}, paper', 'ours') if counted else
                                                                        (f'{measure}, paper',)))]
    rows = []
    for row in table.rows:
        cells = [row]
        for measure, counted in columns:
            cell = table.get(row, measure) or Cell(row, measure)
            cells += [cell.printed or '-', _ours(cell)] if counted else [cell.printed or '-']
        rows.append(cells)
    lines = markdown_table(header, rows).splitlines()
    reasons = [f'* {cell.row}, {cell.measure}: {cell.reason}.' for cell in table.cells if cell.reason]
    conventions = [f'{measure}: {MEASURES[measure][0]}' for measure, counted in columns if counted and measure in MEASURES]
    return '\n'.join(lines + [''] * bool(reasons or conventions) + reasons
                     + ([('\n' if reasons else '') + '; '.join(conventions) + '.'] if conventions else []))


def _ours(cell: Cell) -> str:
    if cell.ours is None:
        return '-'
    text = f'{cell.ours:,.0f}' if cell.ours == int(cell.ours) else f'{cell.ours:.5g}'
    return f'{text} exact' if cell.exact else text if cell.deviation is None else f'{text} ({100 * cell.deviation:+.1f} %)'


FORMATS = {'md': _print_markdown, 'json': _print_json, 'csv': _print_csv}
