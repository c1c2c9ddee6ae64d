"""Tables of text: for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ['format_table', 'markdown_table']


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned by width, numbers to the right."""
    cells = [list(map(str, header))] + [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(isinstance(row[i], int | float) or row[i] in ('', '-') for row in rows) for i in range(len(header))]
    lines = ['  '.join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)).rstrip()
             for row in cells]
    return '\n'.join([lines[0], '  '.join('-' * w for w in widths), *lines[1:]])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; bars and line breaks inside cells are escaped."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join('| ' + ' | '.join(str(cell).replace('|', '\\|').replace('\n', ' ') for cell in line) + ' |'
                     for line in lines) + '\n'


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f'{cell:,.0f}' if 9999.5 <= abs(cell) < 1e15 else f'{cell:,.4g}'  # 12,091 and not 1.209e+04
    return f'{cell:,}' if isinstance(cell, int) else str(cell)
