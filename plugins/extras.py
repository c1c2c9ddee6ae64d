"""Optional libraries: imported where they are needed, with an error that says what to install; which versions are here."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from contextlib import suppress
from types import ModuleType

__all__ = ['MissingExtra', 'installed_versions', 'missing_extra', 'require']

# what modules import at their top because they are nothing without it, and the extra that brings it
_EXTRA_OF = {'torch': 'torch', 'safetensors': 'torch'}


class MissingExtra(ImportError):
    """An optional dependency is not installed."""


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, or say that ``pip install 'facezoo[extra]'`` brings it.

    Raises:
        MissingExtra: it is not installed.
        ImportError: it is, but cannot be loaded (a system library is missing, ...): its own message.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or '').partition('.')[0] != module.partition('.')[0]:
            raise
        raise MissingExtra(_remedy(module, extra)) from error


def missing_extra(error: ImportError) -> str | None:
    """What to install when a plain ``import`` failed on a module that an extra brings; None for any other error."""
    module = (error.name or '').partition('.')[0]
    return _remedy(module, _EXTRA_OF[module]) if isinstance(error, ModuleNotFoundError) and module in _EXTRA_OF else None


def _remedy(module: str, extra: str) -> str:
    return f"this needs {module}, which is not installed: pip install 'facezoo[{extra}]'"


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Version by package; those that are not installed are left out."""
    import importlib.metadata  # slow to import
    found = {}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
