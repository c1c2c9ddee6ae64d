"""The one list of backbones: a decorator registers them, :func:`create_backbone` builds them by name.

A backbone is added by one function in one family file below ``plugins/backbones``; nothing else has to be edited.
The signature follows what InsightFace's ``arcface_torch`` calls:
``get_model(name, dropout=0.0, fp16=False, num_features=512)``.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plugins.backbones._base import Backbone

__all__ = ['OptionError', 'backbone_family', 'create_backbone', 'list_backbones', 'register_backbone', 'suggest']

class OptionError(TypeError, ValueError):
    """A backbone was called with an option that it does not have."""


_ENTRY_POINTS: dict[str, Callable[..., Backbone]] = {}


def register_backbone(entry_point: Callable[..., Backbone]) -> Callable[..., Backbone]:
    """Decorator: make ``entry_point`` available under its own name.

    Raises:
        ValueError: the name is taken by another function.
    """
    name = entry_point.__name__
    if name in _ENTRY_POINTS:
        raise ValueError(f'backbone {name!r} is registered twice: by {_ENTRY_POINTS[name].__module__} and by '
                         f'{entry_point.__module__}; rename one of the functions')
    _ENTRY_POINTS[name] = entry_point
    return entry_point


def list_backbones(pattern: str = '*') -> list[str]:
    """Sorted names of all registered backbones that match the shell ``pattern``."""
    _import_families()
    return sorted(fnmatch.filter(_ENTRY_POINTS, pattern))


def create_backbone(name: str, **kwargs) -> Backbone:
    """Build an untrained backbone.

    Args:
        name: a name of :func:`list_backbones`.
        kwargs: ``num_features``, ``input_size``, ``dropout``, ``fp16`` for every backbone, and the options of the
            family (``width``, ...).

    Raises:
        KeyError: unknown name; the message suggests close ones.
        OptionError: an option that this backbone does not have.
    """
    _import_families()
    if name not in _ENTRY_POINTS:
        raise KeyError(f'unknown backbone {name!r}{suggest(name, _ENTRY_POINTS)}')
    try:
        return _ENTRY_POINTS[name](**kwargs)
    except TypeError as error:
        if 'argument' not in str(error):
            raise
        raise OptionError(f'backbone {name!r} was called with {sorted(kwargs)}: {error}') from error


def backbone_family(name: str) -> str:
    """Name of the module below ``plugins.backbones`` that defines ``name``."""
    _import_families()
    return _ENTRY_POINTS[name].__module__.rpartition('.')[2]


def suggest(name: str, known) -> str:
    """``'; did you mean ...?'`` for a mistyped name, or where to find the list when nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else f"; known: {', '.join(sorted(known))}"


def _import_families() -> None:
    import plugins.backbones as package
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith('_'):
            importlib.import_module(f'{package.__name__}.{module.name}')
