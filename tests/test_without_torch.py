"""Every command where the extras are not installed: it works, or it says what to install."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from plugins.extras import _EXTRA_OF
from tests.conftest import ROOT
from zoo.cli import COMMANDS

TORCH = ('torch', 'torchvision', 'safetensors', 'lightning_fabric', 'pnnx')
OPTIONAL = (*TORCH, 'onnx', 'onnxsim', 'onnxruntime', 'ncnn', 'insightface', 'matplotlib', 'scipy', 'tensorboard', 'faiss',
            'shtab', 'sklearn', 'skimage', 'pandas', 'mxnet', 'tensorrt', 'pycuda')
# runs command lines in one process in which some modules cannot be found; prints status, output and errors of each
RUN = """
import contextlib, io, json, sys
lines, missing = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(missing))
from zoo.cli import main
found = []
for line in lines:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(line)
        except SystemExit as exit_:
            status = exit_.code
    found.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""

# works with nothing but the base
WORKS = [
    'list',
    'info fdfacenet',
    'doctor',
    'recipe list',
    'recipe show fdfacenet_ms1mv3',
    'experiments status fdfacenet_ablation',
    'check --list',
    'latency list',
    'data info {faces}',
]
# what to install: command lines that say so
NEEDS = {
    'completion': [
        'completion bash',
    ],
    'torch': [
        'profile fdfacenet',
        'tables',
        'tables --paper fdfacenet',
        'recipe check fdfacenet_ms1mv3',
        'export fdfacenet --to onnx --out {tmp}/f.onnx',
        'bench fdfacenet',
        'check fdfacenet --target x86',
        'latency predict fdfacenet',
        'latency design fdfacenet --budget 20',
        'eval fdfacenet --set {bin}',
        'ijb fdfacenet --root {ijb}',
        'identify fdfacenet --set {faces}',
        'impostors fdfacenet --set {faces}',
        'enrol {tmp}/g.npz {faces}',
        'recognise {photo}',
        'verify {photo} {photo}',
        'watch {photo}',
        'eval-detector retinaface_mnet025 --truth {tmp}/label.txt --pictures {tmp}',
        'data align {faces} --out {tmp}/crops',
    ],
    'train': [
        'train fdfacenet_kd_faces',
        'experiments run fdfacenet_ablation',
    ],
    'all': [
        'deploy-report fdfacenet --gate-set {bin} --out {tmp}',
        'demo',
    ],
    'runtime': [
        'eval {onnx} --set {bin}',
        'recognise {photo} --detector {detector} --model {onnx}',
    ],
    'onnx': [
        'check {onnx} --target x86',
    ],
}
# take an exported file instead of a model's name
NAMED = ('eval', 'identify', 'impostors', 'enrol', 'recognise', 'verify', 'watch', 'eval-detector')


def run_without(missing, lines: list[str]) -> list[tuple[int, str, str]]:
    request = json.dumps([[line.split() for line in lines], list(missing)])
    done = subprocess.run([sys.executable, '-c', RUN, request], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [tuple(row) for row in json.loads(done.stdout.splitlines()[-1])]


@pytest.fixture(scope='module')
def places(tmp_path_factory, picture, face_folder, face_bin, detector_file, recogniser_file) -> dict[str, Path]:
    tmp = tmp_path_factory.mktemp('without')
    cv2.imwrite(str(tmp / 'photo.jpg'), picture[..., ::-1])
    (tmp / 'label.txt').write_text('# photo.jpg\n' + ' '.join(['10 10 40 40', *['20 20 0'] * 5, '1.0']) + '\n')
    return {'tmp': tmp, 'photo': tmp / 'photo.jpg', 'faces': face_folder, 'bin': face_bin, 'detector': detector_file,
            'onnx': recogniser_file, 'ijb': tmp / 'IJBC'}


def test_works_with_nothing_but_the_base(places):
    for line, (status, out, err) in zip(WORKS, run_without(OPTIONAL, [line.format(**places) for line in WORKS]), strict=True):
        assert status == 0 and out.strip() and not err, (line, err)


def test_says_what_to_install(places):
    """Nobody meets a traceback or "No module named"; what is missing is named with the extra that brings it."""
    rows = [(line, extra) for extra, lines in NEEDS.items() for line in lines]
    results = run_without(OPTIONAL, [line.format(**places) for line, _ in rows])
    for (line, extra), (status, _, err) in zip(rows, results, strict=True):
        assert status == 1 and f"pip install 'facezoo[{extra}]'" in err and 'Traceback' not in err, (line, err)
        if extra == 'torch' and line.split()[0] in NAMED:
            assert 'facezoo export' in err and '.onnx' in err, (line, err)


def test_a_name_that_does_not_exist_is_not_blamed_on_torch(places):
    (status, _, err), = run_without(OPTIONAL, [f'verify {places["photo"]} {places["photo"]} --detector retinafacee'])
    assert status == 1 and 'unknown model' in err


def test_what_is_installed_but_broken_is_not_called_missing(places, tmp_path):
    """A system library lacks, say: `pip install` would not help, and the doctor is asked about just that."""
    (tmp_path / 'onnxruntime.py').write_text("raise ImportError('libgomp.so.1: cannot open', name='onnxruntime.capi')")
    lines = [f'eval {places["onnx"]} --set {places["bin"]}', 'doctor']
    done = [subprocess.run([sys.executable, '-m', 'zoo.cli', *line.split()], cwd=ROOT, capture_output=True, text=True,
                           env={**os.environ, 'PYTHONPATH': str(tmp_path)}) for line in lines]
    assert done[0].returncode == 1 and done[0].stderr == 'facezoo eval: libgomp.so.1: cannot open\n'
    assert done[1].returncode == 0 and 'onnxruntime cannot be loaded (ImportError: libgomp.so.1: ' in done[1].stdout


def test_every_command_is_in_the_tables():
    assert {line.split()[0] for line in sum(NEEDS.values(), WORKS)} == set(COMMANDS) - {'arcface-torch'}


def test_help_of_every_command_needs_nothing():
    results = run_without(OPTIONAL, [f'{command} --help' for command in COMMANDS])
    for command, (status, out, err) in zip(COMMANDS, results, strict=True):
        assert status == 0 and f'facezoo {command}' in out, err


def test_exported_files_need_no_torch(places):
    """What a board does, with the ONNX files that a PC exported."""
    models = '--model {onnx} --detector {detector} --threads 1'
    lines = ['eval {onnx} --set {bin} --json',
             'identify {onnx} --set {faces} --persons 4 --unknown 2 --enrol 2 --probes 4 --json',
             f'verify {{photo}} {{photo}} --threshold 0.5 {models}',
             f'recognise {{photo}} --score 0.75 --json {models}',
             'bench {onnx} --rounds 1 --calls 1', 'check {onnx} --target x86']
    results = run_without(TORCH, [line.format(**places) for line in lines])
    for line, (status, _, err) in zip(lines, results, strict=True):
        assert status == 0, (line, err)
    evaluated, _, verified, recognised, *_ = (out for _, out, _ in results)
    assert json.loads(evaluated)['pairs'] == 40 and verified.startswith('same person')
    assert len(json.loads(recognised)['faces']) == 6


def extras_of_setup() -> dict[str, list[str]]:
    tree = ast.parse((ROOT / 'setup.py').read_text())
    return next(ast.literal_eval(node.value) for node in tree.body
                if isinstance(node, ast.Assign) and node.targets[0].id == 'EXTRAS')


def test_extras_that_are_named_exist():
    """In `require` and in what the rooms say to install."""
    extras = {*extras_of_setup(), 'all', 'dev'}
    text = '\n'.join(path.read_text() for room in ('plugins', 'zoo', 'recipes') for path in (ROOT / room).rglob('*.py'))
    required = re.findall(r"require\('[\w.]+', '([\w-]+)'\)", text)
    named = {*required, *re.findall(r"pip install 'facezoo\[([\w-]+)\]", text), *_EXTRA_OF.values()} - {'extra'}  # docstring
    assert {'runtime', 'torch', 'onnx', 'completion'} <= named <= extras


def test_a_slow_network_is_said_once(places):
    """Without the package onnx, PReLU stays as it is in the file: said for the first such network only."""
    lines = ['verify {photo} {photo} --threshold 0.5 --model {onnx} --detector {detector}', 'eval {onnx} --set {bin} --json']
    code = ("import json, sys; sys.modules['onnx'] = None\nfrom zoo.cli import main\n"
            'for line in json.loads(sys.argv[1]): assert main(line) == 0')
    request = json.dumps([line.format(**places).split() for line in lines])
    done = subprocess.run([sys.executable, '-c', code, request], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.count('facezoo[runtime]') == 1, done.stderr


def test_the_runtimes_bring_what_makes_them_fast():
    packages = extras_of_setup()['runtime']
    assert {'onnx>=1.16', 'onnxruntime>=1.18'} <= {*packages} and not any('torch' in name for name in packages)
