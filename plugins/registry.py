"""The lists of backbones and detectors: a decorator registers them, ``create_*`` builds them by name.

A network is added by one function in one family file below ``plugins/backbones`` or ``plugins/detectors``; nothing else has
to be edited. Files of your own, outside this package, are named in the environment variable ``FACEZOO_PLUGINS`` (see
docs/bring-your-own-backbone.md). A backbone's signature follows what InsightFace's ``arcface_torch`` calls:
``get_model(name, dropout=0.0, fp16=False, num_features=512)``.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import os
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from plugins.files import import_file

if TYPE_CHECKING:
    from plugins.backbones._base import Backbone
    from plugins.detectors._base import Detector

__all__ = ['OptionError', 'backbone_family', 'create_backbone', 'create_detector', 'list_backbones', 'list_detectors',
           'register_backbone', 'register_detector', 'suggest']

Network = TypeVar('Network')


class OptionError(TypeError, ValueError):
    """A network was called with an option that it does not have, or with a value of another type."""


class Registry(Generic[Network]):
    """Networks of one kind by name.

    Args:
        kind: what to call them in messages.
        package: whose modules (but those that begin with ``_``) register them when they are imported.
        facts: attributes that a network must have.
    """

    def __init__(self, kind: str, package: str, facts: tuple[str, ...]) -> None:
        self.kind, self.package, self.facts = kind, package, facts
        self._entry_points: dict[str, Callable[..., Network]] = {}

    def register(self, entry_point: Callable[..., Network]) -> Callable[..., Network]:
        """Decorator: make ``entry_point`` available under its own name.

        Raises:
            ValueError: the name is taken by a function of another module.
        """
        name, module = entry_point.__name__, entry_point.__module__
        other = self._entry_points.get(name, entry_point)
        # the same module defines it again when a notebook's cell or a file that failed is run again, the same file when one
        # of FACEZOO_PLUGINS is imported by its own name or is the script that runs
        if other.__module__ != module and _file(other) != _file(entry_point):
            raise ValueError(f'{self.kind} {name!r} is registered twice: by {other.__module__} and by {module}; rename one of '
                             'the functions')
        self._entry_points[name] = entry_point
        return entry_point

    def names(self, pattern: str = '*') -> list[str]:
        """Sorted names of all that are registered and match the shell ``pattern``."""
        self._import_families()
        return sorted(fnmatch.filter(self._entry_points, pattern))

    def create(self, name: str, **kwargs) -> Network:
        """Build an untrained network.

        Args:
            name: one of :meth:`names`.
            kwargs: options of the family; for backbones ``num_features``, ``input_size``, ``dropout`` and ``fp16`` at least.

        Raises:
            KeyError: unknown name; the message suggests close ones.
            OptionError: an option that this network does not have, or whose value has another type.
            ValueError: the function returns something else than such a network.
        """
        self._import_families()
        if name not in self._entry_points:
            raise KeyError(f'unknown {self.kind} {name!r}{suggest(name, self._entry_points)}')
        try:
            network = self._entry_points[name](**kwargs)
        except TypeError as error:
            if not kwargs and 'argument' not in str(error):
                raise
            options = ', '.join(f'{key}={value!r}' for key, value in sorted(kwargs.items())) or 'no options'
            raise OptionError(f'{self.kind} {name!r} was called with {options}: {error}') from error
        if lacking := [fact for fact in self.facts if not hasattr(network, fact)]:
            raise ValueError(f'{self.kind} {name!r} is a {type(network).__name__} without {" and ".join(lacking)}: derive its '
                             f'class from {self.package}._base.{self.kind.capitalize()}')
        return network

    def family(self, name: str) -> str:
        """Name of the module that defines ``name``."""
        self._import_families()
        return self._entry_points[name].__module__.rpartition('.')[2]

    def _import_families(self) -> None:
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith('_'):
                importlib.import_module(f'{package.__name__}.{module.name}')
        for place in filter(None, os.environ.get('FACEZOO_PLUGINS', '').split(os.pathsep)):
            import_file(place)


def _file(entry_point: Callable) -> str:
    code = getattr(entry_point, '__code__', None)  # a class has none
    return os.path.realpath(code.co_filename) if code else entry_point.__module__


def suggest(name: str, known, otherwise: str = '') -> str:
    """``'; did you mean ...?'`` for a mistyped name; when nothing is close, ``otherwise`` or the whole list."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else otherwise or f"; known: {', '.join(sorted(known))}"


_BACKBONES: Registry[Backbone] = Registry('backbone', 'plugins.backbones', ('input_size', 'num_features'))
register_backbone, list_backbones, create_backbone = _BACKBONES.register, _BACKBONES.names, _BACKBONES.create
backbone_family = _BACKBONES.family

_DETECTORS: Registry[Detector] = Registry('detector', 'plugins.detectors', ('input_size', 'anchors'))
register_detector, list_detectors, create_detector = _DETECTORS.register, _DETECTORS.names, _DETECTORS.create
