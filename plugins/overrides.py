"""``key=value`` words of a command line as a mapping of Python values."""

from __future__ import annotations

import ast

__all__ = ['parse_overrides']


def parse_overrides(words: list[str]) -> dict:
    """``['lr=0.2', 'val_targets=["val"]']`` to a mapping; a value that is no Python literal is a string.

    ``true``, ``false`` and ``none`` are understood in any case; ``augment.flip=0`` sets one entry of a mapping.

    Raises:
        ValueError: a word without ``=``.
    """
    overrides: dict = {}
    for word in words:
        key, equals, text = word.partition('=')
        if not equals or not key:
            raise ValueError(f'{word!r}: write KEY=VALUE')
        outer, dot, inner = key.partition('.')
        if dot:
            overrides.setdefault(outer, {})[inner] = _value(text)
        else:
            overrides[key] = _value(text)
    return overrides


def _value(text: str) -> object:
    constants = {'true': True, 'false': False, 'none': None}
    if text.lower() in constants:
        return constants[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
