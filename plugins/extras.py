"""Optional libraries: imported where they are needed, with an error that says what to install."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ['MissingExtra', 'require']


class MissingExtra(ImportError):
    """An optional dependency is not installed."""


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, or say that ``pip install 'facezoo[extra]'`` brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name and error.name.split('.')[0] != module.split('.')[0]:
            raise
        raise MissingExtra(f"this needs {module}, which is not installed: pip install 'facezoo[{extra}]'") from error
