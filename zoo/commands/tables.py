"""Plain text tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ['format_table']


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned by width, numbers to the right."""
    cells = [list(map(str, header))] + [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(isinstance(row[i], int | float) or row[i] in ('', '-') for row in rows) for i in range(len(header))]
    lines = ['  '.join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)).rstrip()
             for row in cells]
    return '\n'.join([lines[0], '  '.join('-' * w for w in widths), *lines[1:]])


def _text(cell: object) -> str:
    return f'{cell:,.4g}' if isinstance(cell, float) else f'{cell:,}' if isinstance(cell, int) else str(cell)
