"""Names of a package that are imported when they are first used (PEP 562), so that importing the package costs nothing."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

__all__ = ['lazy_names']


def lazy_names(package: dict, modules: Mapping[str, str]) -> Callable[[str], object]:
    """The ``__getattr__`` of a package.

    Args:
        package: its ``globals()``.
        modules: by name, the module that it comes from.
    """
    def getattribute(name: str) -> object:
        if name not in modules:
            raise AttributeError(f'module {package["__name__"]!r} has no attribute {name!r}')
        package[name] = getattr(importlib.import_module(modules[name]), name)
        return package[name]
    return getattribute
