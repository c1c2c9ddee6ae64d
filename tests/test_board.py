"""The scripts that run on the board, with real CUDA calls into a stand-in library and a stand-in tensorrt on onnxruntime.

Under the interpreter of the tests and, where there is one with numpy and onnxruntime, under Python 3.6 (JetPack 4's):
``FACEZOO_PYTHON36=path`` names it.
"""

from __future__ import annotations

import ast
import fnmatch
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from plugins.preprocess import Preprocess
from tests.boards import BOARD, INTERPRETERS, LOOSE, PYTHON36, run_on_board, sign, unpack
from tests.conftest import ROOT
from zoo.export.artefact import export
from zoo.jetson import board, cuda, engine, run, verify
from zoo.jetson.builder import import_tensorrt
from zoo.jetson.bundle import Bundle, BundleError, sha256_file
from zoo.jetson.cache import CacheError, CacheVersionError, complete_scales, read_cache, version_token, write_cache
from zoo.jetson.cuda import CudaError, CudartCuda
from zoo.jetson.log import open_log
from zoo.jetson.recogniser import Recogniser

SOURCES = sorted((ROOT / 'zoo' / 'jetson').glob('*.py'))


@pytest.fixture(scope='session')
def tx2_tar(small_net, face_folder, face_bin, tmp_path_factory) -> Path:
    """A bundle for the Jetson TX2 in FP16 and INT8."""
    out = tmp_path_factory.mktemp('tar') / 'tx2.tar'
    export(small_net, 'small', 'tensorrt', out, face_bin, LOOSE, precision='fp16,int8', device='jetson-tx2',
           calib=face_folder)
    return out


@pytest.fixture
def tx2(tx2_tar, tmp_path) -> Path:
    """The unpacked bundle."""
    return unpack(tx2_tar, tmp_path)


class TestCache:
    def test_format_of_a_real_cache(self):
        """The first lines of a cache that TensorRT 8.2 wrote (NVIDIA/TensorRT#2958): the input was in +-0.5."""
        scales = read_cache('TRT-8201-EntropyCalibration2\ninput: 3b810a13\n(Unnamed Layer* 3) [Constant]_output: 3a4b050c\n')
        assert scales['input'] * 127 == pytest.approx(0.5001, abs=1e-4)
        assert scales['(Unnamed Layer* 3) [Constant]_output'] * 127 == pytest.approx(0.0984, abs=1e-4)

    def test_read_as_trtexec_reads(self):
        """sampleEngines.cpp: find_last_of(':'), stoi(substr(colon + 2, 8), 16), reinterpreted as float."""
        text = write_cache({'a:b': 0.5, '/x/Conv_output_0': 1e-9}, '10.3.0')
        header, *lines = text.splitlines()
        assert header == 'TRT-100300-EntropyCalibration2'
        for line, expected in zip(lines, (0.5, 1e-9), strict=True):
            colon = line.rfind(':')
            bits = int(line[colon + 2:colon + 10], 16)
            assert np.array(bits, np.uint32).view(np.float32) == np.float32(expected)
        assert read_cache(text) == pytest.approx({'a:b': 0.5, '/x/Conv_output_0': 1e-9})

    def test_versions(self):
        assert [version_token(v) for v in ('8.2.1.8', '8.5.2', '10.9.0', '11.4.1')] == ['8201', '8502', '100900', '110401']

    @pytest.mark.parametrize(('text', 'message'), [
        ('', 'begins with'), ('something', 'begins with'), ('TRT-8201-EntropyCalibration2\n', 'cut off'),
        ('TRT-8201-MinMaxCalibration\nx: 3b810a13', 'MinMaxCalibration'),
        ('TRT-8201-EntropyCalibration2\nx: 3b810a', 'line 2'), ('TRT-8201-EntropyCalibration2\nx: 00000000', 'line 2'),
        ('TRT-8201-EntropyCalibration2\nx: 7fc00000', 'line 2'), ('TRT-8201-EntropyCalibration2\nx: zzzzzzzz', 'line 2'),
        ('TRT-8201-EntropyCalibration2\nx: 3b 10 a1', 'line 2'),
    ])
    def test_damaged(self, text, message):
        with pytest.raises(CacheError, match=message):
            read_cache(text)

    def test_of_another_version(self):
        with pytest.raises(CacheVersionError, match=r'made for TensorRT 8201, this is 8205.*--cache-only'):
            read_cache('TRT-8201-EntropyCalibration2\nx: 3b810a13\n', version='8.2.5')

    def test_bad_scales_are_not_written(self):
        with pytest.raises(CacheError, match='tensor x: scale 0'):
            write_cache({'x': 0.0}, '8.2.1')


@pytest.mark.parametrize('path', SOURCES, ids=lambda p: p.name)
def test_sources_are_python_36(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 6))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    assert not imported & {'__future__', 'dataclasses', 'torch', 'zoo', 'plugins', 'importlib.metadata'}
    if PYTHON36:
        subprocess.run([PYTHON36, '-m', 'py_compile', str(path)], check=True, env={'PYTHONDONTWRITEBYTECODE': '1'})


def test_bundle_contents(tx2_tar, tx2):
    with tarfile.open(tx2_tar) as tar:
        names = {Path(m.name).relative_to('small-jetson-tx2').as_posix(): m for m in tar.getmembers()}
    assert {'README.md', 'build.sh', 'build_engine.py', 'bundle.json', 'calibration.json', 'int8.calib', 'model.onnx', 'run.py',
            'samples.npz', 'verify.py', 'facezoo_jetson/recogniser.py'} <= set(names)
    assert names['build.sh'].mode == 0o755
    assert all(time.time() - member.mtime < 86_400 for member in names.values())  # Python takes 1970 for unchanged
    facts = json.loads((tx2 / 'bundle.json').read_text())
    assert facts['default'] == 'fp16' and facts['variants']['int8']['verdict'].startswith('no INT8 units')
    scales = read_cache((tx2 / 'int8.calib').read_text(), version='8.2.1')
    calibration = json.loads((tx2 / 'calibration.json').read_text())
    assert set(scales) == set(calibration['amax']) and calibration['images'] == 42 and len(calibration['images_sha256']) == 64
    readme = (tx2 / 'README.md').read_text()
    assert 'no INT8 units (sm_62)' in readme and 'sudo jetson_clocks' in readme and '$' not in readme.replace('```sh', '')
    sidecar = json.loads(tx2_tar.with_suffix('.json').read_text())
    assert set(sidecar['precisions']) == {'fp16', 'int8'} and sidecar['precisions']['int8']['quantisation']['snr_db']


def test_preprocessing_is_the_house_s(faces, tx2):
    facts = json.loads((tx2 / 'bundle.json').read_text())['preprocess']
    for preprocess in (facts, {**facts, 'colour': 'BGR', 'mean': 127.0, 'std': 128.0}):
        np.testing.assert_array_equal(Recogniser(None, preprocess, 8).prepare(faces[:3]), Preprocess(**preprocess)(faces[:3]))


@pytest.mark.parametrize('python', INTERPRETERS)
@pytest.mark.parametrize('version', ['8.2.1.8', '8.5.2', '10.3.0'])
def test_build_verify_run(python, version, tx2, cudart):
    done = run_on_board(python, tx2, cudart, 'verify.py', 'fp16,int8', '--seconds', '0.05', '--out', 'r.json', version=version)
    assert done.returncode == 0, done.stderr
    assert 'int8: no INT8 units' in done.stderr
    report = json.loads((tx2 / 'r.json').read_text())
    assert report['board']['compute_capability'] == '6.2' and report['board']['tensorrt'] == version
    for found in report['engines'].values():
        assert found['passed'] and found['mean_cosine'] > 0.999 and found['accuracy'] == found['expected_accuracy']
        assert set(found['latency_ms']) == {f'batch {b}, {c} copies' for b in (1, 8) for c in ('with', 'without')}
    header = json.loads((tx2 / 'engines' / 'int8.plan').read_bytes().partition(b'\n')[0])
    assert header['missing'] == []  # the product before a fully connected layer's bias, which 8.5 makes, included
    done = run_on_board(python, tx2, cudart, 'run.py', 'samples.npz', '--out', 'e.npz', version=version)
    assert done.returncode == 0 and 'building' not in done.stderr
    with np.load(tx2 / 'e.npz') as found, np.load(tx2 / 'samples.npz') as samples:
        np.testing.assert_allclose(found['embeddings'], samples['embeddings'], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(('alone', 'batch', 'passed'), [(1, 1, True), (-1, 1, False), (np.nan, 1, False), (1, np.nan, False)])
def test_an_engine_must_be_right_alone_and_in_a_batch(alone, batch, passed):
    embeddings = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    samples = {'faces': np.zeros((6, 8, 8, 3), np.uint8), 'embeddings': embeddings, 'pairs': np.array([[0, 1]]),
               'same': np.array([False])}
    found = verify._check(lambda faces: embeddings[:len(faces)] * (alone if len(faces) == 1 else batch), samples, 0.99, 0.3)
    assert found['passed'] == passed
    json.dumps(verify._finite({'engines': {'fp16': found}}), allow_nan=False)


def test_stale_engine_is_rebuilt(tx2, cudart):
    assert run_on_board(sys.executable, tx2, cudart, 'build_engine.py').returncode == 0
    plan, again = tx2 / 'engines' / 'fp16.plan', ('run.py', 'samples.npz', '--out', 'e.npz')
    assert 'building' not in run_on_board(sys.executable, tx2, cudart, *again).stderr
    done = run_on_board(sys.executable, tx2, cudart, *again, version='8.2.5.1')
    assert 'tensorrt was 8.2.1.8, is 8.2.5.1; building it' in done.stderr and done.returncode == 0
    plan.write_bytes(plan.read_bytes()[:-9])
    done = run_on_board(sys.executable, tx2, cudart, *again, version='8.2.5.1')
    assert 'the file was changed or cut off; building it' in done.stderr and done.returncode == 0


def test_engine_of_another_version_under_a_right_name_is_refused(tx2, cudart):
    """Should key and content ever disagree, TensorRT's own refusal is reported, not an embedding."""
    run_on_board(sys.executable, tx2, cudart, 'build_engine.py')
    plan = tx2 / 'engines' / 'fp16.plan'
    plan.write_bytes(plan.read_bytes().replace(b'8.2.1.8', b'8.2.9.9'))
    facts = json.loads((tx2 / 'engines' / 'fp16.plan.json').read_text())
    (tx2 / 'engines' / 'fp16.plan.json').write_text(json.dumps({**facts, 'sha256': sha256_file(plan)}))
    done = run_on_board(sys.executable, tx2, cudart, 'run.py', 'samples.npz', '--out', 'e.npz')
    assert done.returncode == 1 and 'refuses the engine' in done.stderr and not (tx2 / 'e.npz').exists()


def test_cache_is_completed_for_the_board(tx2, cudart):
    done = run_on_board(sys.executable, tx2, cudart, 'build_engine.py', 'int8', '--cache-only', version='8.2.5')
    assert done.returncode == 0 and 'made for TensorRT' not in done.stderr, 'this is how it is made for another'
    completed = read_cache(Path(done.stdout.strip()).read_text(), version='8.2.5')
    extra = set(completed) - set(read_cache((tx2 / 'int8.calib').read_text()))
    assert any('[Constant]_output' in name for name in extra) and any('[Fully Connected]_output' in name for name in extra)
    done = run_on_board(sys.executable, tx2, cudart, 'build_engine.py', 'int8', version='8.2.5')
    assert done.returncode == 0 and 'made for TensorRT 8201, this is 8205' in done.stderr
    done = run_on_board(sys.executable, tx2, cudart, 'build_engine.py', 'fp16', '--cache-only')
    assert done.returncode == 1 and 'without a calibration cache; leave out --cache-only' in done.stderr


def test_squeezed_tensors_share_a_scale():
    """TensorRT 10.8 and later parse Squeeze and Unsqueeze (ECA has both) as layers of their own, not as Shuffle."""
    kinds = SimpleNamespace(CONSTANT=0, ELEMENTWISE=1, SHUFFLE=2, SQUEEZE=3, UNSQUEEZE=4, CONVOLUTION=5)
    trt = SimpleNamespace(LayerType=kinds, DataType=SimpleNamespace(FLOAT=0, HALF=1))
    tensor = {name: SimpleNamespace(name=name, dtype=0) for name in ('pooled', 'squeezed', 'mixed', 'gate')}
    layers = [SimpleNamespace(type=kind, num_outputs=1, get_input=lambda i, t=tensor[source]: t,
                              get_output=lambda i, t=tensor[target]: t)
              for kind, source, target in ((kinds.SQUEEZE, 'pooled', 'squeezed'), (kinds.CONVOLUTION, 'squeezed', 'mixed'),
                                           (kinds.UNSQUEEZE, 'mixed', 'gate'))]
    network = SimpleNamespace(num_layers=len(layers), get_layer=layers.__getitem__)
    completed, missing = complete_scales(network, {'pooled': 0.5, 'gate': 0.25}, trt)
    assert completed == {'pooled': 0.5, 'gate': 0.25, 'squeezed': 0.5, 'mixed': 0.25} and not missing


def test_missing_scales_are_reported(tx2, cudart):
    """A cache that lacks a tensor is not silently a slower engine."""
    text = (tx2 / 'int8.calib').read_text().splitlines()
    (tx2 / 'int8.calib').write_text('\n'.join(text[:2] + text[3:]) + '\n')
    sign(tx2, 'int8.calib')
    done = run_on_board(sys.executable, tx2, cudart, 'build_engine.py', 'int8')
    assert 'no scale is known for /features' in done.stderr and '1 tensors have no scale' in done.stderr
    shutil.rmtree(tx2 / 'engines')
    done = run_on_board(sys.executable, tx2, cudart, 'verify.py', 'fp16,int8', '--seconds', '0.01')
    assert '1 tensors have no scale' in done.stderr, 'nobody listened while an engine was open'


@pytest.mark.parametrize(('damage', 'message'), [
    (lambda b: (b / 'model.onnx').write_bytes((b / 'model.onnx').read_bytes()[:5000]), 'model.onnx is not the file'),
    (lambda b: (b / 'samples.npz').unlink(), 'samples.npz is missing'),
    (lambda b: (b / 'bundle.json').unlink(), 'no bundle.json'),
    (lambda b: (b / 'bundle.json').write_text('{'), 'cannot be read'),
    (lambda b: (b / 'bundle.json').write_text('{"format": 2}'), 'format 2'),
])
def test_damaged_bundle(tx2, cudart, damage, message):
    damage(tx2)
    with pytest.raises(BundleError, match=message):
        Bundle(str(tx2))
    done = run_on_board(sys.executable, tx2, cudart, 'verify.py')
    assert done.returncode == 1 and message.split()[0] in done.stderr and 'Traceback' not in done.stderr


def test_tar_that_was_cut_off(tx2_tar, tmp_path):
    (tmp_path / 'cut.tar').write_bytes(tx2_tar.read_bytes()[:tx2_tar.stat().st_size // 2])
    assert subprocess.run(['tar', 'xf', 'cut.tar'], cwd=tmp_path, capture_output=True).returncode
    with pytest.raises(BundleError, match=r'is missing|is not the file that was exported'):
        Bundle(str(tmp_path / 'small-jetson-tx2'))
    done = subprocess.run([sys.executable, 'verify.py'], cwd=tmp_path / 'small-jetson-tx2', capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1


def test_errors_are_one_line(tx2, cudart, tmp_path):
    empty = tmp_path / 'empty.npz'
    empty.write_bytes(b'')
    cases = [
        (('verify.py', 'bf16'), {}, "has no 'bf16', only fp16, int8"),
        (('verify.py',), {'version': '8.0.1.6'}, 'older than the 8.2.1'),
        (('build_engine.py',), {'FAKE_TENSORRT_NO_GPU': '1'}, 'CUDA initialization failure with error: 35'),
        (('verify.py',), {'PYTHONPATH': str(tmp_path)}, 'tensorrt cannot be imported'),
        (('run.py', 'nothing.npz'), {}, 'nothing.npz: no such file'),
        (('run.py', str(empty)), {}, 'empty.npz: not an .npz of arrays'),
        (('build_engine.py', 'int8'), {'version': '11.4.1'}, 'has no builder flag'),
    ]
    for command, env, message in cases:
        done = run_on_board(sys.executable, tx2, cudart, *command, **env)
        assert done.returncode == 1 and message in done.stderr and 'Traceback' not in done.stderr, (command, done.stderr)


def test_embeddings_lie_where_it_is_said(tmp_path, monkeypatch, capsys):
    session = SimpleNamespace(bundle=SimpleNamespace(facts={'preprocess': {'input_size': 8}}),
                              recogniser=lambda precision: lambda faces: np.ones((len(faces), 4), np.float32))
    monkeypatch.setattr(run, 'Session', lambda bundle: session)
    np.savez(tmp_path / 'faces.npz', faces=np.zeros((2, 8, 8, 3), np.uint8))
    assert run.main([str(tmp_path / 'faces.npz'), '--out', str(tmp_path / 'of.today')]) == 0
    assert capsys.readouterr().out == f'{tmp_path}/of.today: 2 embeddings of length 4\n'
    assert np.load(tmp_path / 'of.today')['embeddings'].shape == (2, 4)


def test_plugins_are_registered(monkeypatch):
    registered = []
    module = SimpleNamespace(__version__='8.2.1.8', init_libnvinfer_plugins=lambda *arguments: registered.append(arguments))
    monkeypatch.setitem(sys.modules, 'tensorrt', module)
    assert import_tensorrt('8.2.1') is module and registered == [(None, '')]


def test_a_clock_that_is_set_does_not_stretch_a_measurement(monkeypatch):
    """A TX2 has no battery for its clock: it is set when the network is found."""
    ticks, days = iter(range(100)), iter(range(0, -10**9, -86_400))
    monkeypatch.setattr(engine, 'time', SimpleNamespace(time=lambda: next(days), perf_counter=lambda: next(ticks)))
    measured = object.__new__(engine.Engine)
    measured._host, measured._set_shape, measured._run = {}, lambda shape: {}, lambda buffers, copies: None
    assert measured.measure((1, 3, 8, 8), True, seconds=30, warm_up=3).tolist() == [1000.0] * 10


def test_the_log_survives_its_stream_and_the_end_of_the_program(monkeypatch):
    """TensorRT calls it from C++, where an exception would end the process: with `2>&1 | head`, or when an engine goes last."""
    trt = ModuleType('tensorrt')
    trt.ILogger = type('ILogger', (), {'Severity': SimpleNamespace(WARNING=2)})
    stream = io.StringIO()
    monkeypatch.setattr(sys, 'stderr', stream)
    log = open_log(trt)
    del trt.ILogger
    log.log(2, 'careful')
    assert stream.getvalue() == '[TensorRT] careful\n' and log.last == 'careful'
    stream.close()
    log.log(1, 'worse')
    assert log.last == 'worse'


def test_temperatures(monkeypatch):
    """Those of a TX2, whose PMIC-Die is no sensor."""
    zones = {'BCPU-therm': '47500', 'GPU-therm': '48000', 'off': '-256000', 'PMIC-Die': '100000'}
    files = {f'/sys/class/thermal/thermal_zone{index}/{name}': text for index, zone in enumerate(zones.items())
             for name, text in zip(('type', 'temp'), zone, strict=True)}
    monkeypatch.setattr(board.glob, 'glob', lambda pattern: fnmatch.filter(files, pattern))
    monkeypatch.setattr(board, '_first_line', lambda path: files.get(path, ''))
    assert board.clocks() == {'temperature': 48.0}
    del files['/sys/class/thermal/thermal_zone0/temp'], files['/sys/class/thermal/thermal_zone1/temp']
    assert board.clocks() == {}


def test_no_cuda_library(tmp_path, monkeypatch):
    monkeypatch.setattr(cuda, '_NAMES', ())
    monkeypatch.setattr(cuda, '_PLACE', str(tmp_path / 'libcudart.so'))
    monkeypatch.setattr('ctypes.util.find_library', lambda name: None)
    with pytest.raises(CudaError, match='no CUDA runtime library found'):
        CudartCuda()


def test_unsupported_operator_is_named(tx2, cudart):
    import onnx
    model = onnx.load(tx2 / 'model.onnx')
    model.graph.node[1].CopyFrom(onnx.helper.make_node('HardSigmoid', [model.graph.node[1].input[0]],
                                                       [model.graph.node[1].output[0]], 'node1'))
    onnx.save(model, tx2 / 'model.onnx')
    sign(tx2, 'model.onnx')
    done = run_on_board(sys.executable, tx2, cudart, 'build_engine.py')
    assert done.returncode == 1 and 'No importer registered for op: HardSigmoid' in done.stderr


def test_build_script(tx2, cudart, tmp_path):
    """``build.sh`` with a trtexec that writes down its arguments: valid options of that version, no missing cache."""
    trtexec = tmp_path / 'trtexec'
    trtexec.write_text('#!/bin/sh\necho "$@" >> "$TRTEXEC_LOG"\nfor a; do case $a in --saveEngine=*) '
                       'cp "$TRTEXEC_PLAN" "${a#*=}";; esac; done\n')
    trtexec.chmod(0o755)
    known = set(json.loads((BOARD / 'trtexec_options.json').read_text())['8.2.1'])
    assert run_on_board(sys.executable, tx2, cudart, 'build_engine.py', 'fp16').returncode == 0
    plan = Path(shutil.copy(tx2 / 'engines' / 'fp16.plan', tmp_path / 'plan'))
    for precision in ('fp16', 'int8'):
        log = tmp_path / precision
        done = run_on_board('sh', tx2, cudart, 'build.sh', precision, TRTEXEC=str(trtexec), TRTEXEC_LOG=str(log),
                            TRTEXEC_PLAN=str(plan), PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}')
        assert done.returncode == 0, done.stderr
        build, *measured = log.read_text().splitlines()
        options = {word.partition('=')[0] for line in (build, *measured) for word in line.split()}
        assert options <= known, options - known
        assert '--workspace=1024' in build and '--maxShapes=image:8x3x112x112' in build and len(measured) == 4
        assert ('--calib=' in build) == (precision == 'int8')
        assert not run_on_board(sys.executable, tx2, cudart, 'build_engine.py', precision, '--adopt').stderr
    (tx2 / 'engines' / 'fp16.plan').write_bytes(b'of another board')
    done = run_on_board(sys.executable, tx2, cudart, 'build_engine.py', 'fp16', '--adopt')
    assert done.returncode == 1 and 'refuses the engine' in done.stderr and not (tx2 / 'engines' / 'fp16.plan').exists()
    (tx2 / 'int8.calib').unlink()
    done = run_on_board('sh', tx2, cudart, 'build.sh', 'int8', TRTEXEC=str(trtexec), TRTEXEC_LOG=str(tmp_path / 'never'),
                        PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}')
    assert done.returncode and not (tmp_path / 'never').exists(), 'trtexec would calibrate on noise'
