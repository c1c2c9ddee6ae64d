"""The benchmark: it measures, in turns, and says what it measured."""

from __future__ import annotations

import json

import pytest

import zoo
from zoo.bench import Candidate, bench, machine
from zoo.cli import main
from zoo.export.onnx import export_onnx


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A small and a three times larger network."""
    folder = tmp_path_factory.mktemp('bench')
    for name, width in (('small', 0.25), ('large', 1.0)):
        export_onnx(zoo.create('fdfacenet', width=width).eval(), folder / f'{name}.onnx')
    return folder


def test_larger_is_slower(files):
    small, large = bench([Candidate(name, str(files / f'{name}.onnx'), 'onnxruntime') for name in ('small', 'large')], rounds=3,
                         calls=3)
    assert small.ratio == 1 and large.ratio > 1.5
    assert small.p50 <= small.p90 <= small.p99 and small.calls == 9
    assert large.model_mb == pytest.approx((files / 'large.onnx').stat().st_size / 1e6)
    assert 20 < small.peak_mb < 1000


def test_a_candidate_that_cannot_load_says_why(tmp_path):
    (tmp_path / 'broken.onnx').write_bytes(b'no model')
    with pytest.raises(RuntimeError, match=r'broken: .*cannot load'):
        bench([Candidate('broken', str(tmp_path / 'broken.onnx'), 'onnxruntime')])


def test_command(files, tmp_path, capsys):
    assert main(['bench', str(files / 'small.onnx'), '--batch', '1,4', '--rounds', '2', '--calls', '2', '--json',
                 str(tmp_path / 'b.json'), '--plot', str(tmp_path / 'b.png')]) == 0
    written = json.loads((tmp_path / 'b.json').read_text())
    assert [row['batch'] for row in written['results']] == [1, 4]
    assert str(tmp_path) not in json.dumps(written) and written['machine']['versions']['onnxruntime']
    assert 'ratio' in capsys.readouterr().out and (tmp_path / 'b.png').stat().st_size > 3000
    assert main(['bench', 'fdfacenet', '--runtimes', 'tflite']) == 1


def test_machine_names_no_host():
    import platform
    assert platform.node() not in json.dumps(machine()) or len(platform.node()) < 4
