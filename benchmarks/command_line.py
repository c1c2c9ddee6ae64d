"""The command of the running script, as its result records it: every argument as given, but no path of this machine."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ['command_line']


def command_line(doc: str, argv: Sequence[str] | None = None) -> str:
    """``python benchmarks/NAME.py`` and its arguments; ``argv`` is ``sys.argv`` where nothing else is said.

    A path to elsewhere (absolute, or through ``..``) is written as the word that the commands in ``doc``, the script's
    docstring, show behind the same option: the one that the path ends with, or the only one; else, and behind ``--out``, which
    names a result and no input, as its last component.
    """
    script, *given = sys.argv if argv is None else argv
    doc = '\n'.join(re.findall(rf'benchmarks/{Path(script).name}.*', re.sub(r'\s*\\\n\s*', ' ', doc)))
    words, option = [], ''
    for word in given:
        if word.startswith('--'):
            option, equals, value = word.partition('=')
            words.append(option + equals + _named(value, option, doc))
        else:
            words.append(_named(word, option, doc))
    return shlex.join(['python', f'benchmarks/{Path(script).name}', *words])


def _named(value: str, option: str, doc: str) -> str:
    """``value``, a path or several with commas between them, without the places of this machine."""
    words = re.findall(rf'{option}[ =](\S+)', doc) if option not in ('', '--out') else []
    shown = {part for word in words for part in word.split(',')}
    return ','.join(_name(Path(part), shown) if _elsewhere(part) else part for part in value.split(','))


def _elsewhere(value: str) -> bool:
    return Path(value).is_absolute() or '..' in Path(value).parts


def _name(path: Path, shown: set[str]) -> str:
    ends = [word for word in shown if path.parts[-len(Path(word).parts):] == Path(word).parts]
    return max(ends, key=len) if ends else next(iter(shown)) if len(shown) == 1 else path.name
