"""The benchmark: it measures, in turns, and says what it measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import zoo
from tests.conftest import ROOT
from zoo.bench import Candidate, Worker, bench, machine
from zoo.bench_plots import draw_bench
from zoo.bench_worker import peak_mb
from zoo.cli import main
from zoo.export.onnx import export_onnx
from zoo.latency import fit
from zoo.plots import label_points, sheet


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
    assert small.p50 <= small.p90 <= small.p99 and small.calls == 9 and 0.05 < small.cpu < large.cpu
    assert large.model_mb == pytest.approx((files / 'large.onnx').stat().st_size / 1e6)
    assert 20 < small.peak_mb < 1000


@pytest.mark.parametrize(('system', 'counted'), [('darwin', 150_000_000), ('freebsd14', 146_484.375)])
def test_memory_where_there_is_no_proc(system, counted, monkeypatch):
    """macOS counts bytes: its megabytes were a thousand times too many."""
    def nothing(path):
        raise FileNotFoundError(path)
    monkeypatch.setattr(Path, 'read_text', nothing)
    monkeypatch.setattr('sys.platform', system)
    monkeypatch.setattr('resource.getrusage', lambda _: SimpleNamespace(ru_maxrss=counted))
    assert peak_mb() == 150


def test_in_a_folder_that_has_a_package_of_the_same_name(files, tmp_path, monkeypatch):
    (tmp_path / 'plugins').mkdir()
    (tmp_path / 'plugins' / '__init__.py').write_text("raise ImportError('somebody else\\'s')")
    monkeypatch.chdir(tmp_path)
    assert main(['bench', str(files / 'small.onnx'), '--rounds', '1', '--calls', '1']) == 0


def test_pytorch_gets_faces_of_the_network_s_size():
    (result,) = bench([Candidate('small crops', 'mobilefacenet96_eca', 'torch')], rounds=1, calls=1, warm_up=1)
    assert result.calls == 1 and result.p50 > 0


def test_a_candidate_that_cannot_load_says_why(tmp_path):
    (tmp_path / 'broken.onnx').write_bytes(b'no model')
    with pytest.raises(RuntimeError, match=r'broken: .*cannot load'):
        bench([Candidate('broken', str(tmp_path / 'broken.onnx'), 'onnxruntime')])


def test_command(files, tmp_path, capsys):
    assert main(['bench', str(files / 'small.onnx'), '--batch', '1,4', '--rounds', '2', '--calls', '2', '--json',
                 str(tmp_path / 'b.json'), '--plots', str(tmp_path / 'figures')]) == 0
    written = json.loads((tmp_path / 'b.json').read_text())
    assert [row['batch'] for row in written['results']] == [1, 4]
    assert str(tmp_path) not in json.dumps(written) and written['machine']['versions']['onnxruntime']
    assert 'ratio' in capsys.readouterr().out
    assert [path.name for path in (tmp_path / 'figures').iterdir()] == ['latency.png']  # files have no MACs and no card
    assert main(['bench', 'fdfacenet', '--runtimes', 'tflite']) == 1
    assert main(['bench', str(files / 'small.onnx'), '--rounds', '1', '--json', str(tmp_path / 'b.json' / 'c.json')]) == 1
    assert 'ratio' in capsys.readouterr().out  # what was measured is said though it cannot be written


def test_figures_of_the_committed_benchmark(tmp_path):
    facts = json.loads((ROOT / 'results' / 'claims.json').read_text())
    written = draw_bench(facts, tmp_path)
    assert [path.name for path in written] == ['latency.png', 'latency-macs.png', 'latency-feature_map.png', 'accuracy.png']
    assert all(path.read_bytes()[:4] == b'\x89PNG' and path.stat().st_size > 10_000 for path in written)


def test_other_weights_count_for_accuracy_only(tmp_path, monkeypatch):
    facts = json.loads((ROOT / 'results' / 'claims.json').read_text())
    row = next(row for row in facts['results'] if row['label'] == 'fdfacenet')
    facts['results'].append({**row, 'label': 'fdfacenet.lowquality'})
    named = []
    monkeypatch.setattr('zoo.bench_plots.label_points', lambda axes, points: named.append({point[2] for point in points}))
    draw_bench(facts, tmp_path)
    macs, feature_map, accuracy = named
    assert 'fdfacenet.lowquality' not in macs | feature_map and {'fdfacenet', 'fdfacenet.lowquality'} <= accuracy


def test_a_model_may_be_named_twice(tmp_path, monkeypatch):
    """To see how far two of the same are apart."""
    bars = []
    monkeypatch.setattr('matplotlib.axes.Axes.set_yticks', lambda axes, places, names: bars.append((len(axes.patches), names)))
    assert main(['bench', 'fdfacenet', 'fdfacenet', '--runtimes', 'ncnn', '--rounds', '1', '--calls', '1', '--json',
                 str(tmp_path / 'b.json'), '--plots', str(tmp_path)]) == 0
    assert bars == [(2, 2 * ['fdfacenet, ncnn, batch 1, 1 th.'])]


@pytest.mark.parametrize('third', [False, True])
def test_a_line_needs_three_networks(third, tmp_path, monkeypatch):
    """One that is named twice is one; of a runtime with too few, the points are drawn beside another's line."""
    facts, fitted = json.loads((ROOT / 'results' / 'claims.json').read_text()), []
    rows = [next(row for row in facts['results'] if row['label'] == name and row['batch'] == 1)
            for name in ('fdfacenet', 'fdfacenet', 'mobilefacenet')]
    facts['results'] = [{**row, 'runtime': 'ncnn'} for row in rows]
    if third:
        facts['results'] += [{**row, 'label': name, 'runtime': 'onnxruntime'}
                             for row, name in zip(rows, ('fdfacenet', 'mobilefacenet', 'lnrn'), strict=True)]
    monkeypatch.setattr('zoo.bench_plots.fit', lambda points, *rest: fitted.append(len(points)) or fit(points, *rest))
    written = draw_bench(facts, tmp_path)
    assert ('latency-macs.png' in [path.name for path in written]) == third and fitted == third * [3, 3]


def test_names_lie_inside_and_do_not_overlap(tmp_path):
    points = [(1.0, 1.0, 'a long name of a model'), (1.0, 1.01, 'another one as long'), (9.0, 5.0, 'far on the right side'),
              (9.0, 5.0, 'at the very same place')]
    with sheet(tmp_path / 'x.png') as axes:
        axes.plot([p[0] for p in points], [p[1] for p in points], 'o')
        label_points(axes, points)
        figure = axes.get_figure()
        figure.canvas.draw()
        boxes, frame = [text.get_window_extent() for text in axes.texts], axes.get_window_extent()
    assert [text.get_text() for text in axes.texts] and len(boxes) == 4
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_machine_names_no_host():
    import platform
    assert platform.node() not in json.dumps(machine()) or len(platform.node()) < 4


@pytest.mark.parametrize(('lines', 'found'), [
    ('model name\t: AMD EPYC\nflags\t\t: fpu avx2 sha_ni avx512_vnni avx512f\n', ['avx2', 'avx512f', 'avx512_vnni']),
    ('processor\t: 0\nFeatures\t: fp asimd asimddp\n', ['asimddp']), ('processor\t: 0\n', [])])
def test_machine_says_what_its_processor_can(lines, found, monkeypatch):
    monkeypatch.setattr(Path, 'read_text', lambda path: lines)
    monkeypatch.setattr('zoo.bench.installed_versions', lambda names: {})
    assert machine()['instructions'] == found


def test_what_runs_a_file_is_told_by_what_opens_it(tmp_path):
    """A folder that happens to have a model's name is no NCNN model, nor is a weights file."""
    from zoo.commands.bench import _kind
    (tmp_path / 'fdfacenet').mkdir()
    assert _kind(tmp_path / 'fdfacenet') is None
    (tmp_path / 'fdfacenet' / 'net.param').touch()
    (tmp_path / 'last.safetensors').touch()
    assert _kind(tmp_path / 'fdfacenet') == 'ncnn' and _kind(tmp_path / 'last.safetensors') == 'torch'


def test_a_candidate_that_writes_much_to_stderr_is_not_held_up():
    talk = "import sys; sys.stderr.write('x' * 300_000); print('{}', flush=True); sys.exit('and ends')"
    worker = Worker('talker', [sys.executable, '-c', talk], 1)
    worker._process.wait()  # a question to the dead is answered by its last words, too
    with pytest.raises(RuntimeError, match=r'talker: .*and ends'):
        worker.ask(1)


@pytest.mark.parametrize(('arguments', 'message'), [
    (['fdfacenet', '--threads', 'x'], '--threads x: write whole numbers of at least 1'),
    (['fdfacenet', '--batch', '0'], '--batch 0: write'),
    (['retinaface_mnet025'], 'retinaface_mnet025 is a detector'),
    (['retinaface_mnet025', '--runtimes', 'torch'], 'retinaface_mnet025: is a detector')])
def test_wrong_arguments(arguments, message, capsys):
    assert main(['bench', *arguments]) == 1 and message in capsys.readouterr().err
