"""The papers' printed figures beside ours: one YAML a paper with what it prints, computed and drawn by ``facezoo tables``.

Listing the papers needs no torch; counting the networks of their tables (``zoo.papers.tables``) does.
"""

from pathlib import Path

__all__ = ['FOLDER', 'list_papers']

FOLDER = Path(__file__).parent


def list_papers() -> list[str]:
    """Names of the papers with a data file."""
    return sorted(path.stem for path in FOLDER.glob('*.yaml'))
