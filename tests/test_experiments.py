"""Studies: every run once, interrupted ones resumed, a report from the results alone."""

from __future__ import annotations

import json

import pytest
from test_trainer import TINY

from recipes.config import RecipeError
from recipes.experiments import STUDIES, load_study, report, run_study
from zoo.cli import main


@pytest.fixture
def study(tmp_path, face_folder, face_bin):
    recipe = tmp_path / 'tiny.py'
    recipe.write_text(f'REC, VAL, OUT = {str(face_folder)!r}, {str(face_bin)!r}, None' + TINY)
    path = tmp_path / 'study.yaml'
    path.write_text(f'title: Tiny\nclaim: none\nrecipe: {recipe}\nseeds: [1, 2]\noverrides: {{num_epoch: 1}}\nlowres: true\n'
                    'helpers: [teacher]\nruns:\n  teacher: {}\n'
                    '  student: {teachers: ["@teacher"], distill: {label: 1.0, embedding: 1.0}}\n')
    return load_study(str(path))


def test_study(study, tmp_path, face_bin, capsys, monkeypatch):
    run_study(study, tmp_path / 'results', tmp_path / 'work', {}, {'six': str(face_bin)})
    rows = json.loads((tmp_path / 'results/study.json').read_text())
    assert [(row['run'], row['seed']) for row in rows] == [('teacher', 1), ('student', 1), ('teacher', 2), ('student', 2)]
    assert set(rows[0]['results']['six']['lowres']) == {'x1', 'x2', 'x4', 'x8'} and rows[0]['images'] == 48
    logged = [json.loads(line) for line in (tmp_path / 'work/study/student-1/log.jsonl').read_text().splitlines()]
    assert {'margin', 'label', 'embedding'} <= set(logged[0])

    monkeypatch.setattr('recipes.experiments._train_and_measure', lambda *a: pytest.fail('a finished run was run again'))
    run_study(study, tmp_path / 'results', tmp_path / 'work', {}, {'six': str(face_bin)})
    text = report(study, rows)
    assert '| student | 2 |' in text and '| teacher' not in text
    capsys.readouterr()
    assert main(['experiments', 'status', str(tmp_path / 'study.yaml'), '--results', str(tmp_path / 'results')]) == 0
    assert capsys.readouterr().out.count('done') == 4


def test_shipped_studies_load():
    for path in STUDIES.glob('*.yaml'):
        assert load_study(path.stem).runs


def test_wrong_studies(tmp_path):
    with pytest.raises(RecipeError, match='unknown study'):
        load_study('fdfacenet_ablatoin')
    (tmp_path / 'x.yaml').write_text('titel: x')
    with pytest.raises(RecipeError, match="did you mean 'title'"):
        load_study(str(tmp_path / 'x.yaml'))
