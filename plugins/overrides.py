"""``key=value`` words of a command line: what they set, and a mapping with that set."""

from __future__ import annotations

import ast
from collections.abc import Mapping

__all__ = ['apply_overrides', 'parse_overrides']


def parse_overrides(words: list[str]) -> dict:
    """``['lr=0.2', 'val_targets=["val"]']`` to a mapping; a value that is not a Python literal is a string.

    ``true``, ``false`` and ``none`` are understood in any case.

    Raises:
        ValueError: a word without ``=``.
    """
    overrides: dict = {}
    for word in words:
        key, equals, text = word.partition('=')
        if not equals or not key:
            raise ValueError(f'{word!r}: write KEY=VALUE')
        overrides[key] = _value(text)
    return overrides


def apply_overrides(config: Mapping, overrides: Mapping) -> dict:
    """A copy of ``config`` with values replaced; ``augment.flip`` replaces one entry of the mapping ``augment``.

    Raises:
        ValueError: an entry of something that is not a mapping.
    """
    config = dict(config)
    for key, value in overrides.items():
        outer, dot, inner = key.partition('.')
        if not dot:
            config[key] = value
        elif isinstance(config.get(outer, {}), Mapping):
            config[outer] = {**config.get(outer, {}), inner: value}
        else:
            raise ValueError(f'{key}={value!r}: {outer} is {config[outer]!r}, which has no entries')
    return config


def _value(text: str) -> object:
    constants = {'true': True, 'false': False, 'none': None}
    if text.lower() in constants:
        return constants[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
