"""Optional libraries: imported where they are needed, with an error that says what to install; which versions are here."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterable
from contextlib import suppress
from types import ModuleType

__all__ = ['MissingExtra', 'installed_versions', 'require']


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


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Version by package; those that are not installed are left out."""
    found = {}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
