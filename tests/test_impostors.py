"""False accepts among different persons: counts by hand, groups, the command, and the groups of the benchmark's data."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from plugins.data.sources import TreeFaces
from plugins.preprocess import FaceError, encode_image, l2_normalise
from tests.conftest import benchmark
from tests.test_ijb import PatchEmbedder
from zoo.cli import main
from zoo.evaluate import impostors
from zoo.evaluate.impostors import evaluate_impostors, measure_impostors
from zoo.export.onnx import export_onnx


@pytest.fixture
def strangers(tmp_path):
    """Two groups of three and two persons, and one person in none."""
    rng = np.random.default_rng(0)
    for name in ('a/1', 'a/2', 'a/3', 'b/1', 'b/2', '1'):
        path = tmp_path / 'strangers' / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(rng.integers(0, 256, (112, 112, 3), np.uint8), '.png'))
    return tmp_path / 'strangers'


def test_counts_by_hand():
    angles = np.radians([0, 10, 30, 90])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], 1)
    result = evaluate_impostors(embeddings, {'low': np.cos(np.radians(35)), 'high': 0.95}, ())
    assert (result.faces, result.pairs, result.most_alike[:2]) == (4, 6, (0, 1))
    assert result.far == {'low': 3 / 6, 'high': 1 / 6} and not result.threshold
    assert result.most_alike[2] == pytest.approx(np.cos(np.radians(10)))


def test_thresholds_accept_what_they_say(monkeypatch):
    embeddings = l2_normalise(np.random.default_rng(0).normal(size=(300, 8)))
    scores = (embeddings @ embeddings.T)[np.triu_indices(300, 1)]
    result = evaluate_impostors(embeddings, {'x': 0.5}, ('1e-2', '1e-3', '1e-4'))
    assert result.far['x'] == (scores > 0.5).mean() > 0.05
    assert list(result.threshold) == ['1e-2', '1e-3'], 'five pairs of 44,850 are too few for 1e-4'
    for far, threshold in result.threshold.items():
        assert (scores > threshold).sum() == int(float(far) * len(scores))
    first, second, score = result.most_alike
    assert embeddings[first] @ embeddings[second] == pytest.approx(score) == scores.max()
    monkeypatch.setattr(impostors, '_CHUNK', 7)
    assert evaluate_impostors(embeddings, {'x': 0.5}, ('1e-2', '1e-3', '1e-4')).to_dict() == pytest.approx(result.to_dict())


def test_groups_are_compared_within(strangers):
    whole, groups = measure_impostors(PatchEmbedder(), TreeFaces(strangers), {}, ())
    assert whole.pairs == 15 and {name: group.pairs for name, group in groups.items()} == {'a': 3, 'b': 1}


def test_folders_of_persons_are_refused(face_folder):
    with pytest.raises(FaceError, match='person0: most pairs of its pictures are accepted as one person; here a folder'):
        measure_impostors(PatchEmbedder(), TreeFaces(face_folder), {'1e-3': -1.0}, ())


def test_two_strangers_who_look_alike_are_counted(strangers):
    (strangers / 'b/2.png').write_bytes((strangers / 'b/1.png').read_bytes())
    _, groups = measure_impostors(PatchEmbedder(), TreeFaces(strangers), {'1e-3': 0.9999}, ())
    assert (groups['a'].far, groups['b'].far) == ({'1e-3': 0.0}, {'1e-3': 1.0})


def test_one_face_is_refused(strangers):
    for path in [*strangers.glob('*/*'), *strangers.glob('?')]:
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(FaceError, match='one face cannot be compared with any other'):
        measure_impostors(PatchEmbedder(), TreeFaces(strangers), {}, ())


def test_command(strangers, small_net, tmp_path, capsys):
    export_onnx(small_net, tmp_path / 'm.onnx')
    (tmp_path / 'm.json').write_text(json.dumps({'thresholds': {'1e-3': 0.9999, '1e-4': 0.99999}}))
    command = ['impostors', str(tmp_path / 'm.onnx'), '--set', str(strangers)]
    assert main([*command, '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['flip'] is True and found['thresholds'] == {'1e-3': 0.9999, '1e-4': 0.99999}
    assert found['all']['pairs'] == 15 and found['groups']['a']['far@1e-4'] <= found['groups']['a']['far@1e-3'] <= 0.5
    assert main([*command, '--no-flip']) == 0
    table = capsys.readouterr().out
    assert 'flip off' in table and 'FAR at 1e-4' in table and '\na/ ' in table and 'threshold@1e-5' in table
    assert f'{strangers}/' in table and 'most alike (' in table


def test_model_without_thresholds(strangers, small_net, tmp_path, capsys):
    export_onnx(small_net, tmp_path / 'm.onnx')
    assert main(['impostors', str(tmp_path / 'm.onnx'), '--set', str(strangers)]) == 0
    printed = capsys.readouterr()
    assert 'FAR at' not in printed.out and 'm.onnx: no thresholds are known for it' in printed.err


def test_groups_and_repeated_persons_of_the_benchmark():
    script = benchmark('impostors')
    names = ['f/18_0_0_2017.jpg', 'f/29_1_2_2017.jpg', 'f/30_1_2_2017.jpg', 'f/61_1_2017.jpg', 'f/8_0_4_2017.jpg']
    found = {name: rows.tolist() for name, rows in script.groups_of(SimpleNamespace(names=names)).items() if len(rows)}
    assert found == {'White, men': [0], 'Asian, women': [1, 2], 'other, men': [4],
                     'aged 18 to 29': [0, 1], 'aged 30 to 44': [2]}
    assert script.repeated(np.sqrt([[1, 0], [0.9, 0.1], [0, 1]])).tolist() == [False, True, False]
