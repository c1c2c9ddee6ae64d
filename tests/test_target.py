"""Targets are data that must hold together; the lint finds what a device cannot do before anything is built."""

from __future__ import annotations

import json
import os
import subprocess
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from tests.nets import embed
from zoo.cli import main
from zoo.export.bundle_text import build_script
from zoo.export.calibrate import Calibration
from zoo.export.graph import Graph
from zoo.export.half import half_graph, typed_half_graph
from zoo.export.lint import LintError, lint, overflowing_nodes, require_buildable
from zoo.export.quantize import int8_graph
from zoo.export.target import FOLDER, TargetError, list_targets, read_target, target
from zoo.export.variants import FORMS
from zoo.latency import load_latency

TX2, ORIN = 'jetson-tx2', 'jetson-orin'


def network(op: str = 'Relu', opset: int = 13, ir: int = 7, batch: int | str = 'N', channels: int = 64, extra: tuple = ()
            ) -> onnx.ModelProto:
    """Convolution, ``op``, flatten: a graph with one input and one output. ``extra``: initialisers that ``op`` reads too."""
    weight = numpy_helper.from_array(np.ones((channels, 3, 3, 3), np.float32), 'weight')
    nodes = [helper.make_node('Conv', ['image', 'weight'], ['features'], 'conv', pads=[1, 1, 1, 1]),
             helper.make_node(op, ['features', *(tensor.name for tensor in extra)], ['active'], 'act'),
             helper.make_node('Flatten', ['active'], ['embedding'], 'flat')]
    graph = helper.make_graph(nodes, 'net', [helper.make_tensor_value_info('image', TensorProto.FLOAT, [batch, 3, 8, 8])],
                              [helper.make_tensor_value_info('embedding', TensorProto.FLOAT, [batch, channels * 64])],
                              [weight, *extra])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', opset)], ir_version=ir)


def findings(model: onnx.ModelProto, device: str = TX2, absmax=None) -> list[str]:
    return [str(finding) for finding in lint(Graph(model), target(device), absmax)]


@pytest.mark.parametrize('name', list_targets())
def test_target_holds_together(name):
    device = target(name)
    assert device.summary and device.system and device.batch >= 1 and device.default in {*device.native, *device.verdicts}
    assert device.default != 'int8', 'which needs faces to calibrate on'
    assert device.runtime.kind in ('tensorrt', 'ncnn') and set(device.runtime.int8_operators) <= set(device.runtime.operators)
    if device.latency:
        assert load_latency(device.latency).points > 5
    if device.runtime.kind == 'tensorrt':
        assert device.tensorrt and {'build_only', 'workspace', 'measure', 'copies'} <= set(device.runtime.trtexec)
        for variant in device.runtime.variants.values():
            assert variant['form'] in ('plain', 'half', 'half_typed', 'cache', 'qdq') and variant['graph'].endswith('.onnx')


def test_boards_without_int8_units_say_so():
    for name in (TX2, 'jetson-nano'):
        assert 'int8' not in target(name).native and 'no INT8 units' in target(name).verdict('int8')
    assert target(ORIN).verdict('int8') == ''
    with pytest.raises(TargetError, match="has no precision 'fp8'; it can run fp32, fp16"):
        target(TX2).verdict('fp8')


def test_unknown_target():
    with pytest.raises(TargetError, match="unknown target 'jetson-tx'; did you mean 'jetson-tx2'"):
        target('jetson-tx')


@pytest.mark.parametrize(('change', 'message'), [
    ({'runtimes': 'ncnn'}, "unknown field 'runtimes'; did you mean 'runtime'"),
    ({'runtime': 'tensorrt-7'}, r'runtime: no file tensorrt-7\.yaml'),
    ({'default': 'fp8'}, "default: 'fp8' is neither native"),
    ({'native': ['fp16', 'fp4']}, "has no variant 'fp4'"),
    ({'summary': None}, 'missing summary'),
])
def test_malformed_target(tmp_path, change, message):
    data = yaml.safe_load((FOLDER / 'targets' / 'jetson-tx2.yaml').read_text()) | change
    (tmp_path / 'mine.yaml').write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}))
    with pytest.raises(TargetError, match=message):
        read_target(tmp_path / 'mine.yaml')


def test_target_that_is_not_a_mapping(tmp_path):
    (tmp_path / 'mine.yaml').write_text('- a\n- b\n')
    with pytest.raises(TargetError, match='must be a mapping'):
        read_target(tmp_path / 'mine.yaml')


def test_a_plain_network_passes():
    assert [f for f in findings(network()) if f.startswith(('error', 'warning'))] == []


@pytest.mark.parametrize(('model', 'message'), [
    (lambda: network('HardSwish', opset=14), 'HardSwish act: tensorrt-8.2 has no importer for it; use HardSigmoid and Mul'),
    (lambda: network(opset=17), 'opset: 17, tensorrt-8.2 documents up to 13; export at opset 13'),
    (lambda: network('Mish', opset=18), 'Mish act: tensorrt-8.2 has no importer for it; replace it'),
])
def test_what_tensorrt_82_cannot_build(model, message):
    found = findings(model())
    assert any(line.startswith('error: ') and message in line for line in found), found
    with pytest.raises(LintError, match='error: '):
        require_buildable(lint(Graph(model()), target(TX2)))


@pytest.mark.parametrize(('op', 'inputs', 'options', 'message'), [
    ('Conv', ['image', 'weight', 'computed'], {}, 'its bias is computed in the graph'),
    ('Slice', ['image', 'zero', 'one', 'computed'], {}, 'its axes are computed in the graph'),
    ('Einsum', ['image', 'image'], {'equation': '...ij,...ij->...i'}, 'its equation has an ellipsis'),
    ('Einsum', ['image'], {'equation': 'ncii->nci'}, 'its equation has an ellipsis or a diagonal'),
    ('QuantizeLinear', ['image', 'step', 'unsigned'], {}, 'it rounds to uint8'),
    ('Conv', ['image', 'weight', 'bias'], {}, ''),
    ('Slice', ['image', 'zero', 'one', '', 'one'], {}, ''),
    ('Einsum', ['image', 'image'], {'equation': 'nchw, nchw -> nc'}, ''),
    ('QuantizeLinear', ['image', 'step', 'signed'], {}, ''),
])
def test_restrictions_of_operators(op, inputs, options, message):
    values = {'weight': np.ones((4, 3, 1, 1), np.float32), 'bias': np.ones(4, np.float32), 'zero': np.array([0]),
              'one': np.array([1]), 'step': np.float32(0.1), 'signed': np.int8(0), 'unsigned': np.uint8(0)}
    nodes = [helper.make_node('Identity', ['one' if op == 'Slice' else 'bias'], ['computed'], 'identity'),
             helper.make_node(op, inputs, ['made'], 'made', **options)]
    graph = helper.make_graph(nodes, 'net', [helper.make_tensor_value_info('image', TensorProto.FLOAT, ['N', 3, 8, 8])],
                              [helper.make_tensor_value_info('made', TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()])
    errors = [line for line in findings(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)]), ORIN)
              if line.startswith('error')]
    assert len(errors) == bool(message) and all(message in line for line in errors), errors


def test_hardswish_is_fine_where_the_importer_has_it():
    assert not [line for line in findings(network('HardSwish', opset=14), ORIN) if 'importer' in line]


def test_explicit_8_bits_pass_where_there_are_units_for_them():
    """The graph of an Orin's bundle, whose weights stand behind Q/DQ nodes."""
    graph = Graph(network())
    ranges = Calibration('minmax', dict.fromkeys(graph.activations, 1.0), {}, 64, '', {})
    model = int8_graph(graph, ranges)
    assert not [line for line in findings(model, ORIN) if line.startswith('error')]
    assert [line for line in findings(model) if line.startswith('error: ') and 'need hardware with 8-bit units' in line]


def test_gravest_first():
    levels = [line.partition(':')[0] for line in findings(network('HardSwish', opset=17, ir=9, batch=1))]
    assert levels == sorted(levels, key=['error', 'warning', 'note'].index) and set(levels) == {'error', 'warning', 'note'}


def test_warnings():
    slopes = numpy_helper.from_array(np.full((64, 1, 1), 0.25, np.float32), 'slopes')
    assert any('TensorRT adds a Shuffle' in line for line in findings(network('PRelu', extra=(slopes,))))
    assert any('batch is fixed to 1' in line for line in findings(network(batch=1)))
    assert any('brings ONNX of IR 7' in line for line in findings(network(ir=9)))
    assert any('40 channels are no multiple of 32' in line for line in findings(network(channels=40), ORIN))
    assert not any('multiple of 32' in line for line in findings(network(channels=40), TX2)), 'a TX2 has no tensor cores'


def test_half_range():
    assert any('FP16 range: not looked at' in line for line in findings(network()))
    absmax = {'image': 1.0, 'features': 30_000.0, 'active': 2.0, 'embedding': 2.0}
    found = findings(network(), TX2, absmax)
    assert any('Conv conv: reaches 30000 on real faces, FP16 ends at 65504' in line for line in found)
    graph = Graph(network())
    assert overflowing_nodes(graph, absmax) == ['conv', graph.consumers['features'][0].name]  # its reader, too


def test_eight_bits_do_not_overflow_in_layers_that_run_in_16():
    """Where the builder finds FP16 faster than INT8, or a layer is kept out of 8 bits."""
    graph = Graph(network())
    absmax = {'image': 1.0, 'features': 70_000.0, 'active': 7.0, 'embedding': 7.0}
    plan = SimpleNamespace(keep=('conv',), calibration=Calibration('minmax', absmax, absmax, 64, '', {}))
    histograms = {name: SimpleNamespace(absmax=value) for name, value in absmax.items()}
    quantiser = SimpleNamespace(plan=lambda scheme: plan, histograms=histograms)
    job = SimpleNamespace(calib='faces', target=target(TX2), quantiser=quantiser)
    made = FORMS['cache'](job, graph, {'cache': 'int8.calib'})
    assert made.layer_precisions == {'conv': 'fp32', 'act': 'fp32', 'flat': 'fp16'}
    other = FORMS['qdq'](job, graph, {'graph': 'model_int8.onnx'})
    assert not set(made.files) & set(other.files), 'a bundle may hold both, and their ranges differ'


def test_check_command(tmp_path, capsys):
    onnx.save(network('HardSwish', opset=14), tmp_path / 'm.onnx')
    assert main(['check', str(tmp_path / 'm.onnx'), '--target', TX2]) == 1
    assert 'has no importer' in capsys.readouterr().out
    assert main(['check', str(tmp_path / 'm.onnx'), '--target', ORIN, '--json']) == 0
    assert json.loads(capsys.readouterr().out)['target'] == ORIN
    assert main(['check', '--list']) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in list_targets())
    assert main(['check', str(tmp_path / 'm.onnx')]) == 1
    assert 'name a model and a --target' in capsys.readouterr().err
    (tmp_path / 'cut.onnx').write_bytes((tmp_path / 'm.onnx').read_bytes()[:200])
    assert main(['check', str(tmp_path / 'cut.onnx'), '--target', TX2]) == 1
    assert 'cut.onnx: not a whole ONNX model' in capsys.readouterr().err


def strangers_graph(shape: list[int]) -> onnx.ModelProto:
    """As PyTorch writes it by itself: numbers in nodes of their own; and without names, as some converters do."""
    def constant(value, name: str) -> onnx.NodeProto:
        return helper.make_node('Constant', [], [name], value=numpy_helper.from_array(np.array(value)))
    nodes = [helper.make_node('Conv', ['image', 'weight'], ['features']), constant(np.float32(2), 'two'),
             helper.make_node('Mul', ['features', 'two'], ['doubled']), constant(np.ones(32, np.float32), 'bias'),
             constant([1, 32, 1, 1], 'broadcast'), helper.make_node('Reshape', ['bias', 'broadcast'], ['biases']),
             helper.make_node('Add', ['doubled', 'biases'], ['shifted']), constant([3], 'axes'),
             helper.make_node('Squeeze', ['shifted', 'axes'], ['line']), constant(shape, 'shape'),
             helper.make_node('Reshape', ['line', 'shape'], ['embedding'])]
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((32, 3, 8, 8)).astype(np.float32), 'weight')
    graph = helper.make_graph(nodes, 'net', [helper.make_tensor_value_info('image', TensorProto.FLOAT, ['N', 3, 8, 8])],
                              [helper.make_tensor_value_info('embedding', TensorProto.FLOAT, ['N', 32])], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=7)


@pytest.mark.parametrize(('shape', 'error'), [([-1, 32], ''), ([1, -1], 'Reshape embedding: it writes batch size 1 into')])
def test_constants_of_other_exporters(shape, error, tmp_path, capsys):
    """Among them the shape that InsightFace's own export of its mbf freezes (insightface#2406); a bias has no batch."""
    onnx.save(strangers_graph(shape), tmp_path / 'm.onnx')
    assert main(['check', str(tmp_path / 'm.onnx'), '--target', TX2]) == bool(error)
    errors = [line for line in capsys.readouterr().out.splitlines() if line.startswith('error')]
    assert len(errors) == bool(error) and all(error in line for line in errors), errors


@pytest.mark.parametrize('form', [half_graph, typed_half_graph])
def test_graphs_without_names_in_16_bits(form, tmp_path):
    onnx.save(strangers_graph([-1, 32]), tmp_path / 'm.onnx')
    graph, x = Graph.load(tmp_path / 'm.onnx'), np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    exact, found = (embed(model, x) for model in (graph, form(graph)))
    assert 0 < np.abs(found - exact).max() < 0.1


def test_names_of_a_graph_are_no_commands_for_the_board(tmp_path):
    """A detector may be a stranger's, and who builds an engine may be root."""
    name = 'x$(touch${IFS}was_here)`touch${IFS}was_here`";\'touch${IFS}was_here'
    variant = {'input': name, 'shapes': [[1, 3, 32, 32], [1, 3, 384, 640], [1, 3, 640, 640]], 'verdict': '', 'flags': ['FP16'],
               'graph': 'detector.onnx', 'layer_precisions': {name: 'fp32'}}
    facts = {'model': 'net', 'tensorrt': '10', 'default': 'detector', 'variants': {'detector': variant}, 'input': 'image',
             'output': 'embedding', 'preprocess': {'input_size': 112}, 'batch': 8}
    (tmp_path / 'build.sh').write_text(build_script(facts, target(ORIN)))
    (tmp_path / 'build_engine.py').touch()
    (tmp_path / 'trtexec').write_text('#!/bin/sh\nprintf "%s\\n" "$@" >> arguments\n')
    (tmp_path / 'trtexec').chmod(0o755)
    done = subprocess.run(['sh', 'build.sh'], cwd=tmp_path, env={**os.environ, 'TRTEXEC': './trtexec'}, capture_output=True)
    assert done.returncode == 0 and not (tmp_path / 'was_here').exists(), done.stderr
    assert {f'--minShapes={name}:1x3x32x32', f'--layerPrecisions={name}:fp32', f'--shapes={name}:1x3x384x640'} <= {
        *(tmp_path / 'arguments').read_text().splitlines()}
