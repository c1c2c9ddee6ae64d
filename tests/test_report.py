"""The deployment report: every artefact a row, refused ones too, nothing in it that was not measured."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from zoo.cli import main
from zoo.export import gates
from zoo.export.calibrate import Calibration
from zoo.export.gates import Gates, Judge
from zoo.export.job import Job
from zoo.export.lint import LintError
from zoo.export.ncnn_model import NcnnFormatError
from zoo.export.parity import GateError
from zoo.export.report import ReportError, make_report, measure_artefacts, predicted_times, read_measured
from zoo.export.report_text import draw_report, report_markdown
from zoo.export.search import Int8Plan
from zoo.export.target import target
from zoo.latency import LatencyModel
from zoo.runtime.torch import TorchEmbedder
from zoo.weights import save_weights

MEASURED = {'model': 'small', 'target': 'jetson-tx2', 'power_mode': 'MAXN', 'time': '2026-11-22T00:00:00Z',
            'board': {'device': 'quill', 'tensorrt': '8.2.1.8', 'compute_capability': '6.2'},
            'engines': {'fp16': {'passed': True, 'latency_ms': {'batch 1, with copies': {'p50': 2.5},
                                                                'batch 1, without copies': {'p50': 2.25}}}}}


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    path = tmp_path_factory.mktemp('measured') / 'tx2.json'
    path.write_text(json.dumps(MEASURED))
    return path


@pytest.fixture(scope='module')
def made(small_net, face_bin, face_folder, measured, tmp_path_factory):
    """(report, folder), with a gate for bf16 that nothing passes; an untrained net's accuracy in 8 bits is left to chance."""
    folder = tmp_path_factory.mktemp('report')
    judge = Judge(TorchEmbedder(small_net, small_net.preprocess, 'small'), face_bin)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gates.GATES, 'bf16', Gates(1.0, 0.0))
        patch.setitem(gates.GATES, 'int8', Gates(0.5, 1.0))
        return make_report(Job(small_net, 'small', judge, calib=face_folder), [target('jetson-tx2')], folder, [measured],
                           rounds=2), folder


def test_every_artefact_is_a_row(made):
    report, folder = made
    rows = {(row['form'], row['target'], row['precision']): row for row in report['rows']}
    assert set(rows) == {*(('onnx', '', p) for p in ('fp32', 'int8')),
                         *(('ncnn', '', p) for p in ('fp32', 'fp16', 'bf16', 'int8')),
                         *(('tensorrt', 'jetson-tx2', p) for p in ('fp32', 'fp16', 'int8'))}
    for (form, _, precision), row in rows.items():
        assert row['passed'] == (precision != 'bf16') and 0 <= row['accuracy'] <= 1 and row['min_cosine'] > 0.5
        assert (row['latency_ms'] is not None) == (form != 'tensorrt' and row['passed'])
        assert row['simulated'] == (form == 'tensorrt') and (row['megabytes'] is not None) == row['passed']
        assert (row['int8_macs'] is not None) == (precision == 'int8')
    assert rows['ncnn', '', 'int8']['megabytes'] < 0.5 * rows['ncnn', '', 'fp32']['megabytes']
    assert 'no INT8 units' in rows['tensorrt', 'jetson-tx2', 'int8']['reason']
    left = {path.name for path in folder.iterdir()}
    assert {'small-onnx-fp32.onnx', 'small-ncnn-int8', 'small-jetson-tx2-fp16.tar'} <= left and 'small-ncnn-bf16' not in left


def test_refused_row_says_why_and_keeps_its_figures(made):
    row = next(row for row in made[0]['rows'] if row['precision'] == 'bf16')
    assert 'parity gate: minimum cosine' in row['reason'] and row['min_cosine'] < 1 and row['latency_ms'] is None


@pytest.mark.parametrize('error', [LintError('error: Mod a: no importer\nerror: Mod b: no importer'), NcnnFormatError('pnnx')])
def test_what_cannot_be_built_is_a_row(error, small_net, face_bin, tmp_path, monkeypatch):
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr('zoo.export.report.export_job', fail)
    job = Job(small_net, 'small', Judge(TorchEmbedder(small_net, small_net.preprocess, 'small'), face_bin))
    rows, paths = measure_artefacts(job, [target('jetson-tx2')], tmp_path)
    assert len(rows) == 6 and not paths
    assert all(not row.passed and row.reason == str(error).replace('\n', '; ') and row.accuracy is None for row in rows)


def test_eight_bits_of_which_nothing_could_be_measured_are_a_row(small_net, face_bin, face_folder, tmp_path, monkeypatch):
    def refuse(*arguments: object) -> None:
        raise GateError('the net hardly looks at its input')

    monkeypatch.setattr('zoo.export.gates.check_parity', refuse)
    job = Job(small_net, 'small', Judge(TorchEmbedder(small_net, small_net.preprocess, 'small'), face_bin), calib=face_folder)
    rows, _ = measure_artefacts(job, [], tmp_path)
    assert len(rows) == 6 and not any(row.passed for row in rows) and all(row.min_cosine is None for row in rows)
    assert rows[-1].precision == 'int8' and rows[-1].int8_macs


def test_refusal_of_eight_bits_names_the_layer(small_net):
    class Refusing:
        def judge(self, candidate, gates):
            raise GateError('accuracy gate: 90.00 % against 99.00 %', {'parity': {'min_cosine': 0.8}})

    ranges = Calibration('entropy', {}, {}, 64, '', {})
    plan = Int8Plan('ncnn', ranges, ('stem',), 0.9, 0.8, {}, {'stem': 9.0, 'head': 12.5}, 0.97, {'stem': 0.3, 'head': 0.2})
    with pytest.raises(GateError, match=r'accuracy gate.*The layer that lost most is head \(alone it costs 0\.2000') as raised:
        Job(small_net, 'small', Refusing()).pass_gates(None, 'int8', plan)
    assert raised.value.report['parity'] and raised.value.report['quantisation']['keep'] == ['stem']
    plan = replace(plan, scheme='onnxruntime', worst=0.97)  # the file computes otherwise than its numbers say
    with pytest.raises(GateError, match=r'accuracy gate.*a cosine of 0\.9700 .*without 8-bit dot products \(VNNI\)'):
        Job(small_net, 'small', Refusing()).pass_gates(None, 'int8', plan)


def test_page_and_picture(made, tmp_path):
    report = json.loads(json.dumps(made[0]))  # as it is read back
    page = report_markdown(report, 'small.png')
    assert '| ncnn bf16 | - |' in page and '**refused**' in page and '![' in page and '2.50' in page and '8.2.1.8' in page
    assert len([line for line in page.splitlines() if line.startswith('| ncnn') or line.startswith('| tensorrt')]) == 7
    draw_report(report, tmp_path / 'small.png')
    assert (tmp_path / 'small.png').read_bytes().startswith(b'\x89PNG')


def test_measured_times(measured):
    times = read_measured(measured, 'small')
    assert [(t.what, t.milliseconds) for t in times] == [('fp16, with copies', 2.5), ('fp16, without copies', 2.25)]
    assert 'MAXN' in times[0].source and times[0].kind == 'measured'
    with pytest.raises(ReportError, match="measured with 'small', but the report is about 'other'"):
        read_measured(measured, 'other')


@pytest.mark.parametrize(('engine', 'detector'), [(True, True), (True, False), (False, True)])
def test_what_failed_on_the_board_is_said(engine, detector, tmp_path):
    (tmp_path / 'm.json').write_text(json.dumps({
        **MEASURED, 'engines': {'fp16': {**MEASURED['engines']['fp16'], 'passed': engine}}, 'detector': {'passed': detector}}))
    times = read_measured(tmp_path / 'm.json', 'small')
    assert [time.milliseconds for time in times] == [2.5, 2.25]
    for time in times:
        assert [f'THE {what} FAILED ITS CHECK' in time.source for what in ('ENGINE', 'DETECTOR')] == [not engine, not detector]


@pytest.mark.parametrize('text', ['', '{', '[]', '{"model": "small"}', json.dumps({**MEASURED, 'engines': {'fp16': {}}})])
def test_damaged_measurements(tmp_path, text):
    (tmp_path / 'm.json').write_text(text)
    with pytest.raises(ReportError, match=r'm\.json: not written by verify\.py --out'):
        read_measured(tmp_path / 'm.json', 'small')


def test_prediction_or_reason(tmp_path):
    fit = LatencyModel('a board', {'layers': 0.5}, 1.0, False, 9, 0.9, 0.1, 0.2, {'layers': (8, 20)})
    fit.save(tmp_path / 'fit.json')
    device = replace(target('jetson-tx2'), latency=str(tmp_path / 'fit.json'))
    [found] = predicted_times({'layers': 10}, [device])
    assert found.milliseconds == 6.0 and 'leave-one-out error 20 %' in found.source and found.kind == 'predicted'
    [outside] = predicted_times({'layers': 100}, [device])
    assert outside.milliseconds is None and 'lies outside the measured' in outside.source
    [unknown] = predicted_times({'layers': 10}, [target('jetson-orin')])
    assert unknown.milliseconds is None and 'no published measurements' in unknown.source


def test_errors_come_before_the_work(tmp_path, capsys, face_bin, measured, small_net):
    save_weights(tmp_path / 'w.safetensors', small_net, 'fdfacenet', {'width': 0.25})
    command = ['deploy-report', str(tmp_path / 'w.safetensors'), '--gate-set', str(face_bin), '--out', str(tmp_path / 'r')]
    assert main([*command, '--targets', 'jetson-tx3']) == 1
    assert "unknown target 'jetson-tx3'; did you mean 'jetson-tx2'" in capsys.readouterr().err
    assert main([*command, '--measured', str(measured)]) == 1
    assert "measured with 'small', but the report is about 'w'" in capsys.readouterr().err
    assert main([*command, '--measured', str(tmp_path / 'none.json')]) == 1
    assert 'none.json' in capsys.readouterr().err and not (tmp_path / 'r').exists()
    (tmp_path / 'r').mkdir()
    (tmp_path / 'r' / 'w.json').write_text('{"sha256": {"w.onnx": ""}}')
    assert main(command) == 1
    assert 'w.json belongs to w.onnx, which could not be checked without it' in capsys.readouterr().err
