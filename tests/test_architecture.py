"""The rooms and their one direction: plugins <- zoo <- recipes; only the command line sees all three."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FORBIDDEN = {'plugins': {'zoo', 'recipes'}, 'zoo': {'recipes'}, 'recipes': set()}
FILES = [path for room in FORBIDDEN for path in sorted((ROOT / room).rglob('*.py'))]
OTHERS = [path for folder in ('tests', 'benchmarks', 'docs') for path in sorted((ROOT / folder).rglob('*.py'))]
LIMIT = 400
BACKBONE_LIMIT = 300


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition('.')[0])
    return names & set(FORBIDDEN)


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_import_direction(path):
    if path != ROOT / 'zoo' / 'cli.py':
        assert not imported_rooms(path) & FORBIDDEN[path.relative_to(ROOT).parts[0]]


@pytest.mark.parametrize('path', [*FILES, *OTHERS], ids=lambda p: str(p.relative_to(ROOT)))
def test_file_is_short(path):
    limit = BACKBONE_LIMIT if 'backbones' in path.parts else LIMIT
    assert len(path.read_text().splitlines()) <= limit


@pytest.mark.parametrize('module', ['zoo', 'zoo.cli', 'zoo.evaluate.verification', 'zoo.runtime', 'zoo.runtime.onnx',
                                    'zoo.runtime.ncnn', 'zoo.jetson.align', 'zoo.pipeline.crop', 'zoo.pipeline.galleries',
                                    'zoo.evaluate.detection_run',
                                    'plugins.data.pack', 'recipes.config'])
def test_imports_without_torch(module):
    code = f'import sys; sys.modules["torch"] = None; import {module}'
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
