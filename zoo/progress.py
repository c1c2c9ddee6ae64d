"""One progress bar for all long work: rate and time left, on the terminal only."""

from __future__ import annotations

import sys

from tqdm import tqdm

__all__ = ['progress_bar']


def progress_bar(total: int, unit: str, label: str = '', enabled: bool = True) -> tqdm:
    """A bar over ``total`` units on standard error; silent when disabled or when standard error is not a terminal."""
    return tqdm(total=total, unit=f' {unit}', desc=label, disable=not (enabled and sys.stderr.isatty()), leave=False)
