"""Data files (cards, targets) read into frozen dataclasses: a wrong field is named with its file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import MappingProxyType

from plugins.registry import suggest

__all__ = ['build_dataclass', 'read_yaml']

# how the annotation of a field begins: what its value is in YAML, and in words
_KINDS = {'Mapping': (dict, 'a mapping'), 'tuple': (list, 'a list'), 'str': (str, 'a text, in quotes if need be'),
          'int': (int, 'a whole number')}


def read_yaml(path: Path, error: type[ValueError]) -> dict:
    """A YAML file that holds a mapping.

    Raises:
        error: it is not YAML, or not a mapping.
    """
    import yaml
    try:
        data = yaml.load(path.read_text(encoding='utf-8'), getattr(yaml, 'CSafeLoader', yaml.SafeLoader))
    except yaml.YAMLError as problem:
        raise error(f'{path}: not YAML: {problem}') from None
    if not isinstance(data, dict):
        raise error(f'{path}: must be a mapping')
    return data


def build_dataclass(kind: type, data: dict, where: str, error: type[ValueError]):
    """``kind(**data)`` with mappings and lists made immutable.

    Raises:
        error: a field is unknown (a close one is suggested), missing, of another kind, or refused by ``kind``; ``where`` begins
            the message.
    """
    if not isinstance(data, dict):
        raise error(f'{where}: must be a mapping')
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in data:
        if key not in fields:
            raise error(f'{where}: unknown field {key!r}{suggest(str(key), fields)}')
    required = [n for n, f in fields.items()
                if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and n not in data]
    if required:
        raise error(f'{where}: missing {", ".join(required)}')
    for key, value in data.items():
        annotation = fields[key].type
        wanted, words = next((pair for start, pair in _KINDS.items() if annotation.startswith(start)), (object, ''))
        if not isinstance(value, wanted) and not (value is None and annotation.endswith('None')):
            raise error(f'{where}: {key}: {value!r} must be {words}')
    try:
        return kind(**{key: _freeze(value) for key, value in data.items()})
    except (ValueError, TypeError) as problem:  # what the class itself refuses
        raise error(f'{where}: {problem}') from None


def _freeze(value):
    if isinstance(value, dict):
        return MappingProxyType({key: _freeze(item) for key, item in value.items()})
    return tuple(_freeze(item) for item in value) if isinstance(value, list) else value
