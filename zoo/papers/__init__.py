"""The papers' printed figures beside ours: one YAML a paper with what it prints, computed and drawn by ``facezoo tables``."""

from zoo.papers.tables import Cell, Paper, Table, list_papers, load_paper

__all__ = ['Cell', 'Paper', 'Table', 'list_papers', 'load_paper']
