"""The command line as its user meets it."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import zoo
from tests.conftest import ROOT
from zoo.cli import COMMANDS, main
from zoo.tables import format_table


def test_profile_json(capsys):
    assert main(['profile', 'fdfacenet', '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['params'] == 3_173_664 and found['macs'] == 129_377_280 and found['input_size'] == [112, 112]
    assert {'macs_paper', 'feature_map_mb_paper', 'feature_map_mb_table2', 'feature_map_mb_fused'} <= set(found)
    options = ['--width', '0.75', '--input', '96x128', '--num-features', '128']
    assert main(['profile', 'nfacenet', *options, '--json', '--layers']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['input_size'] == [96, 128] and found['layers'][0]['output'] == [36, 48, 64]
    assert main(['profile', 'fdfacenet', '--layers']) == 0
    out = capsys.readouterr().out
    first = next(line.split() for line in out.splitlines() if line.startswith('features.0.1'))
    assert first == ['features.0.1', 'BatchNorm2d', '48x56x56', '96', '0', '0.3011', '9.6e-05', '0.6021', '1,204', '0', '0']
    assert '3.1737 M' in out


def test_list_and_info(capsys):
    assert main(['list']) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in zoo.list_models()) and 'e+' not in out and '12,09' in out
    assert main(['list', '--json', '--trained']) == 0
    assert 'fdfacenet' in [row['name'] for row in json.loads(capsys.readouterr().out)]
    assert main(['info', 'fdfacenet']) == 0
    out = capsys.readouterr().out
    assert 'sha256' in out and 'research' in out and 'fidelity: exact' in out


def test_errors_are_messages(capsys):
    assert main(['info', 'fdfacenet.lowquality']) == 0
    shown = capsys.readouterr().out
    assert 'fdfacenet-lowquality-' in shown and '  default:' not in shown
    assert main(['info', 'fdfacenet.lowqality']) == 1
    assert "has no trained weights 'lowqality'; did you mean 'lowquality'" in capsys.readouterr().err
    assert main(['info', 'fdfacenett']) == 1
    assert capsys.readouterr().err.startswith("facezoo info: unknown model 'fdfacenett'; did you mean 'fdfacenet' or")
    assert main(['profile', 'mobilefacenett']) == 1
    assert "did you mean 'mobilefacenet'" in capsys.readouterr().err
    assert main(['profile', 'retinaface_mnet025']) == 1
    assert 'is a detector, and profile counts recognisers; `facezoo info' in capsys.readouterr().err
    assert main(['profile', 'fdfacenet', '--set', 'depth=3']) == 1
    assert 'depth' in capsys.readouterr().err
    with pytest.raises(ValueError):
        main(['info', '--debug', 'fdfacenett'])


@pytest.mark.parametrize('command', COMMANDS)
def test_help_of_every_command(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, '--help'])
    out = capsys.readouterr().out
    assert exit_.value.code == 0 and f'facezoo {command}' in out


@pytest.mark.parametrize(('number', 'shown'), [(9999.4, '9,999'), (9999.7, '10,000'), (12091.2, '12,091'), (0.12345, '0.1235')])
def test_numbers_of_a_table(number, shown):
    assert format_table(['ms'], [[number]]).splitlines()[-1].strip() == shown


def test_no_command_prints_help(capsys):
    assert main([]) == 2
    assert 'COMMAND' in capsys.readouterr().out
    assert main(['--version']) == 0
    assert capsys.readouterr().out.strip() == zoo.__version__


@pytest.mark.parametrize('code', ['import zoo', 'import zoo; zoo.list_models()', 'from zoo.cli import main; main(["list"])',
                                  'from zoo.cli import main; main(["info", "fdfacenet"])'])
def test_starts_without_heavy_libraries(code):
    """benchmarks/startup.py measures what this keeps so."""
    code += '; import sys; sys.exit(str({"numpy", "torch", "cv2", "importlib.metadata"} & set(sys.modules) or 0))'
    run = subprocess.run([sys.executable, '-I', '-c', f'import sys; sys.path.insert(0, sys.argv[1]); {code}', str(ROOT)],
                         capture_output=True, text=True)
    assert run.stderr.strip() == '0', run.stderr


def test_demo(tmp_path, capsys, crops):
    assert main(['demo', '--out', str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert 'export pack' in out and (tmp_path / 'similarity.png').stat().st_size > 10_000
    assert main(['demo', str(tmp_path / 'recognised.jpg'), '--out', str(tmp_path)]) == 1
    assert 'recognised.jpg: 1280x886 pixels' in capsys.readouterr().err


def test_demo_of_what_is_no_recogniser_of_the_zoo(tmp_path, capsys):
    """A detector, and weights whose threshold nobody knows: a message, before anything is made."""
    from zoo.weights import save_weights
    save_weights(tmp_path / 'mine.safetensors', zoo.create('fdfacenet', width=0.25), 'fdfacenet', {'width': 0.25})
    for model, words in (('retinaface_mnet025', 'is a detector'), (tmp_path / 'mine.safetensors', 'the threshold of a card')):
        assert main(['demo', '--model', str(model), '--out', str(tmp_path / 'out')]) == 1
        assert words in capsys.readouterr().err and not (tmp_path / 'out').exists()


@pytest.mark.parametrize('unbuffered', ['', '1'])
def test_nobody_reads_the_output(unbuffered):
    """`facezoo list | head -1` is no error, nor is a reader that is gone before the first line."""
    for reader in ('head -1', 'true'):
        command = f'{sys.executable} -m zoo.cli list | {reader}; exit ${{PIPESTATUS[0]}}'
        done = subprocess.run(['bash', '-c', command], capture_output=True, text=True, cwd=ROOT,
                              env={**os.environ, 'PYTHONUNBUFFERED': unbuffered})
        assert done.returncode in (0, 141) and not done.stderr, done.stderr


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='this system has no /dev/full')
@pytest.mark.parametrize('unbuffered', ['', '1'])
def test_output_that_cannot_be_written_is_an_error(unbuffered):
    with open('/dev/full', 'w') as full:
        done = subprocess.run([sys.executable, '-m', 'zoo.cli', 'list'], stdout=full, stderr=subprocess.PIPE, text=True,
                              cwd=ROOT, env={**os.environ, 'PYTHONUNBUFFERED': unbuffered})
    assert done.returncode == 1 and 'No space left' in done.stderr and done.stderr.count('\n') == 1, done.stderr


def test_interrupted_by_the_user(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt
    monkeypatch.setattr('zoo.commands.list.run', interrupted)
    assert main(['list']) == 130 and capsys.readouterr().err == 'facezoo: interrupted\n'
    monkeypatch.setattr('zoo.commands.list.configure', interrupted)  # while its module is imported
    assert main(['list']) == 130 and capsys.readouterr().err == 'facezoo: interrupted\n'


def test_a_library_that_cannot_be_loaded_is_a_message(monkeypatch, capsys):
    """As OpenCV without libGL, which a command's module may import before there are options."""
    def broken(parser):
        raise ImportError('libGL.so.1: cannot open shared object file')
    monkeypatch.setattr('zoo.commands.list.configure', broken)
    assert main(['list']) == 1 and capsys.readouterr().err == 'facezoo list: libGL.so.1: cannot open shared object file\n'
    with pytest.raises(ImportError):
        main(['list', '--debug'])


def test_closed_streams_end_no_work():
    """Nor does the next file get the number of the standard output, which libraries in C write to."""
    code = 'import os, sys, zoo.cli as cli; sys.exit(cli.main(["list"]) or os.open(os.devnull, 0) < 3)'
    assert subprocess.run(['bash', '-c', '"$@" >&- 2>&-', '', sys.executable, '-c', code], cwd=ROOT).returncode == 0


def test_names_that_the_terminal_cannot_show(gallery, tmp_path, monkeypatch):
    """A file system's name that is no UTF-8, on a terminal that has no more than ASCII."""
    from zoo.pipeline.gallery import Gallery
    made, out = Gallery(gallery.contract), io.TextIOWrapper(io.BytesIO(), 'ascii', errors='strict')
    for name in ('Jos\udce9', 'Zo\u00eb'):
        made.add(name, gallery.templates()[1][:1], ['1.jpg'])
    made.save(tmp_path / 'g.npz')
    monkeypatch.setattr(sys, 'stdout', out)
    assert main(['enrol', str(tmp_path / 'g.npz'), '--list']) == 0
    assert out.buffer.getvalue().decode().splitlines() == ['Jos\\udce9: 1', 'Zo\\xeb: 1']


def test_models_of_the_wrong_kind_are_named(detector_file, recogniser_file, tmp_path, capsys):
    from zoo.runtime import open_embedder
    assert main(['verify', 'a.jpg', 'b.jpg', '--model', 'retinaface_mnet025']) == 1
    assert 'is a detector, which embeds no faces; give a recogniser' in capsys.readouterr().err
    (tmp_path / 'net.param').write_text('7767517\n')
    (tmp_path / 'net.json').write_text('{"strides": [8, 16, 32]}')
    with pytest.raises(ValueError, match='which embeds no faces'):
        open_embedder(tmp_path / 'net.param')
    with pytest.raises(ValueError, match='leave out --network'):
        open_embedder(recogniser_file, network='fdfacenet')


def test_no_threshold_without_a_sidecar(recogniser_file, tmp_path):
    """Whatever zoo model the file, or the folder that it lies in, is called after."""
    from zoo.pipeline.threshold import threshold_of
    from zoo.runtime import open_embedder
    assert main(['export', 'fdfacenet', '--to', 'ncnn', '--out', str(tmp_path / 'mobilefacenet')]) == 0
    (tmp_path / 'mobilefacenet/fdfacenet.json').unlink()
    for path in (recogniser_file, tmp_path / 'mobilefacenet', tmp_path / 'mobilefacenet/fdfacenet.param'):
        with pytest.raises(ValueError, match=r'\.json of this model is not beside it'):
            threshold_of(open_embedder(path))


@pytest.mark.parametrize(('line', 'words'), [
    ('recognise a.jpg --score nan', '--score: nan: must be a number, 0 to 1'),
    ('recognise a.jpg --score 1.1', '--score: 1.1: must be a number, 0 to 1'),
    ('data align a --out b --score -1', '--score: -1'),
    ('data align a --out b --size 0', '--size: 0: must be a whole number, at least 96'),
    ('data pack a --out b --holdout -1', '--holdout: -1'),
    ('identify fdfacenet --set a --seed -1', '--seed: -1'),
    ('ijb fdfacenet --root a --batch 0', '--batch: 0: must be a whole number, at least 1'),
    ('profile fdfacenet --width nan', '--width: nan: must be a number, above 0'),
    ('profile fdfacenet --width inf', '--width: inf: must be a number, above 0'),
    ('profile fdfacenet --input 112x', '--input: : must be a whole number, at least 1'),
    ('profile fdfacenet --input 0x112', '--input: 0: must be a whole number, at least 1'),
    ('latency design fdfacenet --budget nan', '--budget: nan: must be a number, above 0'),
    ('experiments run --seed -1', '--seed: -1: must be a whole number, at least 0'),
    ('experiments run --set lfw.bin', '--set: lfw.bin: write NAME=SET, as in lfw=lfw.bin'),
    ('watch 0 --threshold 0.4 --far 1e-4', '--far: not allowed with argument --threshold'),
    ('eval-detector retinaface_mnet025 --truth a --score 75', '--score: 75'),
    ('verify a.jpg b.jpg --threshold nan', '--threshold: nan: must be a number, -1 to 1'),
    ('watch 0 --threshold 43', '--threshold: 43'),
    ('watch 0 --threads -1', '--threads: -1: must be a whole number, at least 0'),
    ('eval fdfacenet --set a --threads two', '--threads: two: must be a whole number'),
    ('watch 0 --seconds 0', '--seconds: 0: must be a number, above 0'),
    ('watch 0 --seconds -5', '--seconds: -5'),
    ('bench fdfacenet --rounds 0', '--rounds: 0: must be a whole number, at least 1'),
    ('bench fdfacenet --calls -1', '--calls: -1'),
])
def test_numbers_out_of_range_are_wrong_usage(line, words, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(line.split())
    assert exit_.value.code == 2 and f'error: argument {words}' in capsys.readouterr().err


def test_files_that_are_no_models_are_named_in_full(tmp_path, capsys, monkeypatch):
    """With what is taken instead; a name with a dot in it is not cut off there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'net.tflite').write_bytes(b'x')
    (tmp_path / 'fdfacenet.onnx').write_bytes(b'x')
    (tmp_path / 'empty').mkdir()
    for line, words in (('info net.tflite', 'net.tflite: not a kind of file that is taken here'),
                        ('export fdfacenet.onnx --to ncnn --out n', 'fdfacenet.onnx: not a kind of file'),
                        ('check net.tflite --target jetson-tx2', 'net.tflite: not a kind of file'),
                        ('verify a.jpg b.jpg --model build/fdfacenet.param2', 'build/fdfacenet.param2: no such file'),
                        ('bench build/fdfacenet', 'build/fdfacenet: no such file'),
                        ('verify a.jpg b.jpg --model empty', 'empty: a folder without a .param file')):
        assert main(line.split()) == 1
        said = capsys.readouterr().err
        assert words in said and '.safetensors' in said and '.param' in said, said
    (tmp_path / 'fdfacenet').mkdir()  # what is made for a model may have its name
    assert main(['info', 'fdfacenet']) == 0 and zoo.card('fdfacenet.lowquality').name == 'fdfacenet'


TEXTS = """
from pathlib import Path
from recipes.experiments import load_study
from zoo.evaluate.detection_sets import open_detection_set
from zoo.model_card import read_card
print(ascii([load_study('study.yaml').title, read_card(Path('card.yaml')).summary, *open_detection_set('label.txt').faces]))
"""


def test_texts_are_utf8_whatever_the_system_takes_them_for(tmp_path):
    """Cards, studies and lists of pictures, whose names may be those of a file system that has no encoding."""
    (tmp_path / 'study.yaml').write_text('{title: Zo\u00eb, claim: x, recipe: proxy_faces, runs: {}}', encoding='utf-8')
    (tmp_path / 'card.yaml').write_text('{summary: Zo\u00eb, paper: x, fidelity: exact, params: 1, macs: 1}', encoding='utf-8')
    row = ' '.join(['10 10 40 40', *['20 20 0'] * 5, '1.0'])
    (tmp_path / 'label.txt').write_bytes(f'\ufeff# Zo\u00eb.jpg\n{row}\n# Jos'.encode() + b'\xe9.jpg\n' + row.encode())
    done = subprocess.run([sys.executable, '-c', TEXTS], cwd=tmp_path, capture_output=True, text=True, env={
        **os.environ, 'PYTHONPATH': str(ROOT), 'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'})
    assert done.stdout.strip() == ascii(['Zo\u00eb', 'Zo\u00eb', 'Zo\u00eb.jpg', 'Jos\udce9.jpg']), done.stderr


def test_a_picture_whose_name_is_no_utf8_is_reported(tmp_path, people, detector_file, capsys):
    """On a file system that has no encoding; the list of what was left out has the name as it is."""
    from plugins.preprocess import encode_image
    place = tmp_path / 'people' / 'Ann' / 'Jos\udce9.png'
    shutil.copytree(people / 'Person 0', place.parent)
    try:
        place.write_bytes(encode_image(np.zeros((64, 64, 3), np.uint8), '.png'))
    except OSError:
        pytest.skip('this file system takes no such name')
    line = ['data', 'align', str(tmp_path / 'people'), '--out', str(tmp_path / 'out'), '--detector', str(detector_file)]
    assert main(line) == 0, capsys.readouterr().err
    report, = (tmp_path / 'out').glob('*.csv')
    assert b'Ann/Jos\xe9.png,' in report.read_bytes()
