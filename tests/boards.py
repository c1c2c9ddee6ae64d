"""A bundle's scripts run as on a board, with stand-ins for the GPU's libraries, here and under JetPack 4's Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.conftest import PATIENCE
from zoo.export.gates import Gates
from zoo.jetson.bundle import sha256_file

BOARD = Path(__file__).parent / 'board'
PYTHON36 = os.environ.get('FACEZOO_PYTHON36')
INTERPRETERS = [pytest.param(sys.executable, id='python'),
                pytest.param(PYTHON36, id='python3.6', marks=pytest.mark.skipif(
                    not PYTHON36, reason='needs FACEZOO_PYTHON36: a Python 3.6 with numpy and onnxruntime'))]


def run_on_board(python: str, bundle: Path, cudart: Path, *command: str, version: str = '8.2.1.8', **env: str
                 ) -> subprocess.CompletedProcess:
    """A script of the bundle, as on a board."""
    environment = {**os.environ, 'PYTHONPATH': str(BOARD), 'LD_LIBRARY_PATH': str(cudart), 'FAKE_TENSORRT': version,
                   'PYTHONDONTWRITEBYTECODE': '1', 'OMP_NUM_THREADS': '1', **env}
    return subprocess.run([python, *command], cwd=bundle, env=environment, capture_output=True, text=True, timeout=PATIENCE)


# accuracy on 40 pairs turns on single ones, and these tests are about bundles, not about that gate
LOOSE = Gates(0.5, 1.0)


def unpack(tar: Path, folder: Path) -> Path:
    """A bundle as it lies on the board."""
    with tarfile.open(tar) as archive:
        name = archive.getmembers()[0].name.partition('/')[0]
        archive.extractall(folder, filter='data')
    return folder / name


def sign(bundle: Path, name: str) -> None:
    """Let the bundle take a file that a test has changed for the one that was exported."""
    facts = json.loads((bundle / 'bundle.json').read_text())
    facts['sha256'][name] = sha256_file(bundle / name)
    (bundle / 'bundle.json').write_text(json.dumps(facts))
