"""Every code block of the documentation runs, unless the line above it says why it does not."""

from __future__ import annotations

import re
import shlex

import pytest

from plugins import registry
from tests.conftest import ROOT
from zoo.cli import main

BLOCK = re.compile(r'(?P<note><!-- not tested:[^\n]*-->\n)?```(?P<language>python|sh)\n(?P<code>.*?)```', re.DOTALL)
PAGES = [ROOT / 'README.md', ROOT / 'docs' / 'bring-your-own-backbone.md']


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_page(page, tmp_path, monkeypatch, crops):
    """All blocks of a page in order, in one folder and one namespace, as its reader would type them."""
    monkeypatch.chdir(tmp_path)
    registry.list_backbones()
    backbones = registry._BACKBONES
    monkeypatch.setattr(backbones, '_entry_points', dict(backbones._entry_points))  # a page may register one of its own
    namespace: dict = {}
    ran = 0
    for block in BLOCK.finditer(page.read_text()):
        if block['note']:
            continue
        ran += 1
        if block['language'] == 'python':
            exec(compile(block['code'], page.name, 'exec'), namespace)
            continue
        for line in block['code'].splitlines():
            words = shlex.split(line, comments=True)
            if words:
                assert words[0] == 'facezoo', f'cannot run {line!r}'
                assert main(words[1:]) == 0, line
    assert ran, f'{page.name} has no code block that runs'
