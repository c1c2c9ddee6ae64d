"""Help pages that read like a manual: what it does, its arguments with their defaults, examples, notes.

A command's page is made from its module's docstring: the first paragraph says what it does, an indented one holds examples (one
a line, `  facezoo COMMAND ...`), the others are notes. The page of a verb takes those examples that begin with it.
"""

from __future__ import annotations

import argparse
import textwrap

__all__ = ['ManualFormatter', 'verbs_of', 'write_manual']


class ManualFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions; says of every option its default, and whether it may be repeated."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = (action.help or '') + '; may be repeated' * isinstance(action, argparse._AppendAction)
        silent = action.default is None or action.default is False or action.default in ([], argparse.SUPPRESS)
        return text if silent or not action.option_strings else f'{text} (default: %(default)s)'


def write_manual(parser: argparse.ArgumentParser, doc: str, description: str = '') -> None:
    """Lay out the page of a command and those of its verbs.

    Args:
        parser: of the command, with all its arguments.
        doc: docstring of its module.
        description: instead of the docstring's first paragraph.
    """
    summary, _, rest = doc.strip().partition('\n\n')
    paragraphs = textwrap.dedent(rest).split('\n\n')  # as Python 3.13 does, if there are no other lines than examples
    shown = [text for text in paragraphs if text.startswith(('  ', 'facezoo '))]
    examples = [line for text in shown for line in textwrap.indent(textwrap.dedent(text), '  ').splitlines()]
    own = [line for line in examples if line.strip().startswith(parser.prog)] if description else examples
    notes = [] if description else [text for text in paragraphs if text not in shown]
    parser.formatter_class = ManualFormatter
    parser.description = parser.description or description or summary
    parser.epilog = '\n\n'.join(['\n'.join(['examples:', *own]), *notes])
    for sub, text in verbs_of(parser).values():
        write_manual(sub, doc, f'{text[0].upper()}{text[1:]}.')


def verbs_of(parser: argparse.ArgumentParser) -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """Parser and line of help by verb; nothing for a command without verbs."""
    return {choice.dest: (action.choices[choice.dest], choice.help or '')
            for action in parser._actions if isinstance(action, argparse._SubParsersAction)
            for choice in action._choices_actions}
