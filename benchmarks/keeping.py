"""Files that take long to make, kept with a note of what they were made from, and not used if that has changed."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from plugins.files import write_atomic

__all__ = ['code', 'discard', 'is_kept', 'keep', 'made_from', 'require']


def _note(path: Path) -> Path:
    return path.with_name(f'{path.name}.made.json')


def made_from(path: Path) -> dict:
    """What ``path`` was made from; empty where there is no file or nobody says."""
    return json.loads(_note(path).read_text()) if path.exists() and _note(path).exists() else {}


def keep(path: Path, facts: Mapping) -> None:
    """Note what ``path``, which is whole now, was made from."""
    write_atomic(_note(path), json.dumps(facts, indent=1) + '\n')


def discard(path: Path) -> Path:
    """``path``, which is about to be made anew: until :func:`keep` it counts as not there."""
    _note(path).unlink(missing_ok=True)
    return path


def is_kept(path: Path, facts: Mapping) -> bool:
    """Whether ``path`` is there and was made from exactly ``facts`` (a mapping that JSON can hold)."""
    return made_from(path) == json.loads(json.dumps(facts))


def require(path: Path, facts: Mapping, remedy: str) -> None:
    """Refuse a file that is missing or was made from anything else.

    Raises:
        SystemExit: names the file, the facts that differ, and ``remedy``.
    """
    if not is_kept(path, facts):
        old, new = made_from(path), json.loads(json.dumps(facts))
        differ = ', '.join(sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)))
        found = f'made from other {differ}' if old else 'missing, or nobody noted what it was made from'
        raise SystemExit(f'{path}: {found}; {remedy}')


def code(*things: Callable | type) -> str:
    """Fingerprint of the source of functions and classes: results of other code are other results."""
    return hashlib.sha256('\n'.join(map(inspect.getsource, things)).encode()).hexdigest()[:16]
