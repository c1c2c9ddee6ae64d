"""Print a script that completes commands, options, models, recipes and files in a shell.

  facezoo completion bash > ~/.local/share/bash-completion/completions/facezoo
  facezoo completion zsh > ~/.zfunc/_facezoo                 ~/.zfunc must be in $fpath
  facezoo completion fish > ~/.config/fish/completions/facezoo.fish

The script is self-contained: pressing TAB does not start Python. Write it again after an update, or when you have added models.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from plugins.extras import require

SHELLS = ('bash', 'zsh', 'fish')
# what an argument is called in the help, where a file will do
FILES = ('FILE', 'FOLDER', 'DIR', 'PATH', 'SET', 'FACES', 'SOURCE', 'GALLERY', 'MODEL', 'RECIPE', 'STUDY', 'DEVICE')


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('shell', choices=SHELLS, help='the shell that the script is for')


def run(args: argparse.Namespace) -> None:
    from zoo.cli import COMMANDS, NAMES, build_parser
    shtab = require('shtab', 'completion')
    parser = build_parser(*COMMANDS)
    names = {metavar: getattr(importlib.import_module(module), function)(**options)
             for metavar, (module, function, options) in NAMES.items()}
    for action in _arguments(parser):
        if action.nargs != 0 and not action.choices and (found := candidates(action, names)):
            action.complete = found
    print(shtab.complete(parser, args.shell))


def candidates(action: argparse.Action, names: dict[str, list[str]]) -> dict | None:
    """How shtab completes an argument, by what it is called in the help; None where neither a name nor a file will do.

    Args:
        names: what an argument called MODEL, RECIPE, ... may be.
    """
    metavar = str(action.metavar).partition(',')[0]
    words, files = ' '.join(names.get(metavar, ())), metavar in FILES or action.type is Path
    if not (words or files):
        return None
    function = f'_facezoo_{metavar if metavar in names else ""}{"_file" * files}'
    return {'bash': function, 'zsh': function, 'fish': f'({function})', 'preamble': {
        'bash': f'{function}() {{\n  compgen -W "{words}" -- "$1"\n' + '  compgen -f -- "$1"\n' * files + '}',
        'zsh': f'{function}() {{\n' + f'  compadd -- {words}\n' * bool(words) + '  _files\n' * files + '}',
        'fish': f'function {function}\n' + f"  printf '%s\\n' {words}\n" * bool(words)
                + '  __fish_complete_path (commandline -ct)\n' * files + 'end'}}


def _arguments(parser: argparse.ArgumentParser):
    """The arguments of a parser and of all below it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from _arguments(sub)
        else:
            yield action
