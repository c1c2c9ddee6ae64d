"""The help of every command and verb reads like a manual page."""

from __future__ import annotations

import argparse
import re
import shlex

import pytest

from zoo.cli import COMMANDS, build_parser
from zoo.manual import verbs_of


def pages() -> dict[str, argparse.ArgumentParser]:
    """Parser by command line, of all commands and their verbs."""
    found = {}
    for command, (parser, _) in verbs_of(build_parser(*COMMANDS)).items():
        found[command] = parser
        found |= {f'{command} {verb}': sub for verb, (sub, _) in verbs_of(parser).items()}
    return found


PAGES = pages()
LEAVES = [line for line in PAGES if not verbs_of(PAGES[line])]


def arguments(line: str) -> list[argparse.Action]:
    return [action for action in PAGES[line]._actions if not isinstance(action, argparse._SubParsersAction)]


@pytest.mark.parametrize('line', PAGES)
def test_description_and_examples(line):
    page = PAGES[line].format_help()
    description = PAGES[line].description
    assert len(description) > 10 and description[0].isupper() and description.endswith('.') and description in page
    examples = re.findall(rf'^  (facezoo {line}\b.*)$', page, re.MULTILINE)
    assert '\nexamples:\n' in page and examples, f'facezoo {line} --help shows no example'


@pytest.mark.parametrize('line', PAGES)
def test_every_argument_is_explained(line):
    for action in arguments(line):
        name = '/'.join(action.option_strings) or action.dest
        assert action.help and len(action.help) > 5, f'facezoo {line}: {name} has no help'
        takes_value = action.nargs != 0 and not action.choices
        assert not takes_value or action.metavar, f'facezoo {line}: {name} needs a metavar that says what it takes'
        if action.option_strings and takes_value and action.default not in (None, []):
            assert f'(default:{action.default})' in re.sub(r'\s+', '', PAGES[line].format_help()), (line, name)


@pytest.mark.parametrize('line', LEAVES)
def test_examples_parse(line):
    """Up to the words that explain them, which stand behind three spaces."""
    for example in re.findall(rf'^  facezoo ({line}\b.*)$', PAGES[line].epilog, re.MULTILINE):
        words = shlex.split(re.split(r'\s{3,}|\s+[#>]', example)[0].replace(' ...', ''))
        build_parser(words[0]).parse_args(words)


@pytest.mark.parametrize(('line', 'status'), [('verify', '3'), ('check', '1'), ('export', '1'), ('recognise', '1'),
                                              ('recipe check', '1'), ('latency predict', '1')])
def test_exit_status_is_stated_where_a_script_needs_it(line, status):
    assert re.search(rf'exit status[^.]*{status}', PAGES[line].format_help(), re.IGNORECASE)


def test_first_page_names_the_exit_statuses():
    page = build_parser().format_help()
    assert all(text in page for text in ('0 done', '1 an error', '2 wrong usage', '130 interrupted', 'COMMAND --help'))
