"""The wheel and the source distribution hold every file of the three rooms, and what is installed from them runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

ROOMS = ('plugins', 'recipes', 'zoo')
FILES = ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE')
# what README and docs tell a reader to run first; all of it needs files that are not modules
COMMANDS = ['list', 'info fdfacenet', 'experiments status fdfacenet_ablation', 'latency list', 'latency predict fdfacenet',
            'tables --paper lnrn --format json', 'recipe list', 'check --list', 'check fdfacenet --target jetson-tx2', 'doctor']


def files_of_the_rooms() -> set[str]:
    return {str(path.relative_to(ROOT)) for room in ROOMS for path in (ROOT / room).rglob('*')
            if path.is_file() and '__pycache__' not in path.parts and not path.name.startswith('.')}


@pytest.fixture(scope='module')
def built(tmp_path_factory) -> Path:
    """Folder with both distributions, built from a copy of the sources by the installed setuptools: no network."""
    source, out = tmp_path_factory.mktemp('source') / 'facezoo', tmp_path_factory.mktemp('dist')
    source.mkdir()
    for room in (*ROOMS, 'tests'):  # setuptools takes a part of the tests, unless it is told not to
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns('__pycache__'))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    for kind in ('sdist', 'wheel'):
        code = f'import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])'
        run = subprocess.run([sys.executable, '-c', code, str(out)], cwd=source, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    return out


@pytest.fixture(scope='module')
def installed(built, tmp_path_factory) -> Path:
    """The wheel as pip lays it out; its dependencies are those of this environment."""
    site = tmp_path_factory.mktemp('site')
    with zipfile.ZipFile(next(built.glob('*.whl'))) as wheel:
        wheel.extractall(site)
    return site


def test_wheel_holds_every_file(built):
    with zipfile.ZipFile(next(built.glob('*.whl'))) as wheel:
        packed = {name for name in wheel.namelist() if '.dist-info/' not in name}
        entry_points = next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith('entry_points.txt'))
    assert packed == files_of_the_rooms(), 'add the pattern to package_data in setup.py'
    assert 'facezoo = zoo.cli:main' in entry_points


def test_sdist_holds_every_file(built):
    with tarfile.open(next(built.glob('*.tar.gz'))) as sdist:
        packed = {member.name.partition('/')[2] for member in sdist if member.isfile()}
    assert files_of_the_rooms() | set(FILES) <= packed
    assert not [name for name in packed if name.startswith(('tests/', 'docs/'))]


def test_every_extra_can_be_installed_as_it_is_pinned(built):
    """Beside the base, in the versions of constraints.txt: no requirement excludes another."""
    with zipfile.ZipFile(next(built.glob('*.whl'))) as wheel:
        metadata = next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith('.dist-info/METADATA'))
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    pins = {(pin.name.lower(), next(iter(pin.specifier)).version) for pin in map(Requirement, lines[2:])}
    needed = [Requirement(line.partition(': ')[2]) for line in metadata.splitlines() if line.startswith('Requires-Dist: ')]
    assert len(needed) > 50
    for name, version in pins:
        assert all(each.specifier.contains(version) for each in needed if each.name.lower() == name), (name, version)


def test_installed_commands_run(installed, tmp_path):
    code = """
import sys, zoo.cli
assert zoo.__file__.startswith(sys.argv[1])
for line in sys.argv[2:]:
    status = zoo.cli.main(line.split())
    assert status == 0, f'{line}: exit status {status}'
"""
    run = subprocess.run([sys.executable, '-c', code, str(installed), *COMMANDS], cwd=tmp_path, capture_output=True, text=True,
                         env={**os.environ, 'PYTHONPATH': str(installed)})
    assert run.returncode == 0, run.stderr
    assert 'Raspberry Pi 4B' in run.stdout and 'seed 3' in run.stdout and 'sha256' in run.stdout
