"""Studies: every run once, interrupted ones resumed, a report from the results alone."""

from __future__ import annotations

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recipes.config import RecipeError, load_recipe
from recipes.experiments import STUDIES, list_studies, load_study, run_study
from recipes.report import Study, _least, pack_decisions, plot_curves, report
from recipes.trainer.run import Diverged
from tests.conftest import TINY
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
    assert rows[0]['precision'] == '32'
    six = rows[0]['results']['six']
    decided = np.unpackbits(np.frombuffer(base64.b64decode(six['decisions']['x4']), np.uint8), count=six['pairs'])
    assert decided.mean() == pytest.approx(six['lowres']['x4'], abs=0.02)  # folds of unequal size count alike there
    logged = [json.loads(line) for line in next(tmp_path.glob('work/study/student-1-*/log.jsonl')).read_text().splitlines()]
    assert {'margin', 'label', 'embedding'} <= set(logged[0])

    monkeypatch.setattr('recipes.experiments._train_and_measure', lambda *a: pytest.fail('a finished run was run again'))
    run_study(study, tmp_path / 'results', tmp_path / 'work', {}, {'six': str(face_bin)})
    text = report(study, rows)
    assert '| student | 2 |' in text and '| teacher' not in text and 'Images a run: 48.' in text
    assert rows[0]['curve']['epoch'][-1] == 1 and rows[0]['curve']['margin'][-1] > 0
    capsys.readouterr()
    assert main(['experiments', 'status', str(tmp_path / 'study.yaml'), '--results', str(tmp_path / 'results')]) == 0
    assert capsys.readouterr().out.count('done') == 4


def test_part_of_a_study(study, tmp_path, face_bin, capsys, monkeypatch):
    """Runs and seeds by name; a teacher comes along with whom it teaches, and only then."""
    made = []

    def pretend(config, *_) -> dict:
        made.append(Path(config.output).name.rpartition('-')[0])
        Path(config.output).mkdir(parents=True)
        Path(config.output, 'checkpoint.pt').touch()
        return {}

    monkeypatch.setattr('recipes.experiments._train_and_measure', pretend)
    path = str(tmp_path / 'study.yaml')
    command = ['experiments', 'run', path, '--results', str(tmp_path / 'results'), '--work', str(tmp_path / 'work')]
    assert main([*command, '--run', 'teacher', '--seed', '7']) == 0 and made == ['teacher-7']
    assert main([*command, '--run', 'student', '--seed', '8', '--seed', '7']) == 0
    assert made == ['teacher-7', 'teacher-8', 'student-8', 'student-7']
    assert main([*command, '--run', 'studnet']) == 1 and "no run 'studnet'" in capsys.readouterr().err
    assert main(['experiments', 'status', path, '--results', str(tmp_path / 'results')]) == 0
    assert 'seed 1  seed 2  seed 7  seed 8' in capsys.readouterr().out


def test_a_run_that_diverges_does_not_end_the_queue(study, tmp_path, capsys, monkeypatch):
    """Whom it would teach is passed over, the next seed is run, and what failed is told at once and at the end."""
    made = []

    def pretend(config, *_) -> dict:
        made.append(Path(config.output).name.rpartition('-')[0])
        Path(config.output).mkdir(parents=True)
        Path(config.output, 'checkpoint.pt').touch()
        if made == ['teacher-1']:
            raise Diverged('the loss is nan at step 7')
        return {}

    monkeypatch.setattr('recipes.experiments._train_and_measure', pretend)
    paths = ['--results', str(tmp_path / 'results'), '--work', str(tmp_path / 'work')]
    assert main(['experiments', 'run', str(tmp_path / 'study.yaml'), *paths]) == 1
    assert made == ['teacher-1', 'teacher-2', 'student-2']
    assert capsys.readouterr().err.splitlines() == [
        'study: teacher, seed 1: the loss is nan at step 7', "study: student, seed 1: its teacher 'teacher' failed",
        'facezoo experiments: all runs are done except study: student, seed 1; study: teacher, seed 1; the reasons are above']


def test_two_commands_side_by_side(study, tmp_path, monkeypatch):
    """Every run is trained by one of them, a student after its teacher, and no result is lost."""
    made = []

    def pretend(config, *_) -> dict:
        made.append(Path(config.output).name.rpartition('-')[0])
        time.sleep(0.1)
        Path(config.output).mkdir(parents=True)
        Path(config.output, 'checkpoint.pt').touch()
        return {}

    load_recipe(study.recipe)  # not by both threads at a time
    monkeypatch.setattr('recipes.experiments._train_and_measure', pretend)
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(run_study, replace(study, seeds=seeds), tmp_path / 'results', tmp_path / 'work', {}, {})
                     for seeds in ((1, 2), (2, 1))]:
            done.result()
    assert sorted(made) == ['student-1', 'student-2', 'teacher-1', 'teacher-2']
    assert all(made.index(f'teacher-{seed}') < made.index(f'student-{seed}') for seed in (1, 2))
    assert len(json.loads((tmp_path / 'results/study.json').read_text())) == 4


def test_a_teacher_without_its_training_is_trained_again(study, tmp_path, face_bin, capsys):
    """Its result is kept, but another work folder has not what its student needs; so it is with a teacher's teacher."""
    path = tmp_path / 'study.yaml'
    path.write_text(path.read_text() + '  pupil: {teachers: ["@student"], distill: {embedding: 1.0}}\n')
    command = ['experiments', 'run', str(path), '--results', str(tmp_path / 'results'), '--seed', '1', '--work']
    assert main([*command, str(tmp_path / 'work'), '--run', 'teacher']) == 0
    capsys.readouterr()
    assert main([*command, str(tmp_path / 'elsewhere'), '--run', 'pupil']) == 0
    said = [f'study: {label}, seed 1' for label in ('teacher', 'student', 'pupil')]
    assert capsys.readouterr().out.splitlines() == said
    assert main([*command, str(tmp_path / 'empty'), '--run', 'pupil']) == 0 and not capsys.readouterr().out


def test_orderings_are_judged_by_their_error():
    """Differences against hand-computed errors: 10 points of accuracy at 50 % and 100 pairs are sqrt(2 * 25) = 7.07."""
    def row(run: str, accuracy: float, pairs: int, seed: int = 1) -> dict:
        result = {'accuracy': accuracy, 'tar@1e-3': 0, 'pairs': pairs}
        return {'run': run, 'seed': seed, 'images': 1, 'precision': '32', 'results': {'lfw': result}}
    study = Study('x', 'X', 'a > b > c', 'r', {'a': {}, 'b': {}, 'c': {}}, expect=(('a', 'b'), ('b', 'c'), ('c', 'a')))
    text = report(study, [row('a', 0.6, 100), row('b', 0.5, 100)])
    assert '| a > b | +10.00 +- 7.00 | not told apart |' in text and 'b > c |' not in text and 'Not run yet: c' in text
    text = report(study, [row('a', 0.6, 10_000), row('b', 0.5, 10_000), row('c', 0.9, 10_000)])
    assert '| a > b | +10.00 +- 0.70 | holds |' in text and '| b > c | -40.00 +- 0.58 | reversed |' in text
    noisy = [row('a', 0.7, 10_000), row('a', 0.5, 10_000, 2), row('b', 0.5, 10_000)]  # of b, one seed scatters as those of a
    text = report(study, noisy)
    assert '| a > b | +10.00 +- 17.33 | not told apart |' in text and 'Seeds scatter by 14.14 points' in text
    few = [row('a', 0.601, 1_000_000), row('a', 0.599, 1_000_000, 2), row('b', 0.596, 1_000_000), row('b', 0.594, 1_000_000, 2)]
    text = report(study, few)  # 3.5 errors: two seeds each, of which t of two degrees of freedom exceeds 4.5 as rarely
    assert '| a > b | +0.50 +- 0.16 | not told apart |' in text


def test_few_seeds_ask_for_more_than_two_errors():
    """Tables of Student's t at 4.55 %; with the larger part of the error known, Welch and Satterthwaite's freedom."""
    assert [_least(1.0, 1.0, freedom) for freedom in (1, 2, 5, 10, 10_000)] == pytest.approx(
        [13.97, 4.53, 2.65, 2.28, 2.0], abs=0.006)
    assert _least(2 ** 0.5, 1.0, 1) == pytest.approx(2.87, abs=0.006)  # of four degrees
    assert _least(1.0, 0.0, 0) == 2.0


def test_runs_that_saw_the_same_pairs_are_compared_pair_by_pair():
    """Of 10 000 pairs 1000 are decided rightly by a alone and 500 by b alone: sqrt(0.15 - 0.05 ** 2) / 100 = 0.384 points."""
    right = {'a': np.arange(10_000) < 6000, 'b': np.arange(10_000) >= 1000}
    right['b'][6500:] = False

    def row(run: str, seed: int = 1, keep: bool = True) -> dict:
        result = {'accuracy': right[run].mean(), 'tar@1e-3': 0, 'pairs': 10_000}
        kept = {'decisions': {'x1': pack_decisions(right[run])}} if keep else {}
        return {'run': run, 'seed': seed, 'images': 1, 'precision': '32', 'results': {'lfw': result | kept}}
    study = Study('x', 'X', 'a > b', 'r', {'a': {}, 'b': {}}, expect=(('a', 'b'),))
    assert '| a > b | +5.00 +- 0.38 | holds |' in report(study, [row('a'), row('b'), row('b', 2, keep=False)])
    assert '| a > b | +5.00 +- 0.70 | holds |' in report(study, [row('a', keep=False), row('b')])


def test_low_resolution_is_judged_where_the_paper_prints_it():
    def row(run: str, clean: float, small: float) -> dict:
        lowres = {'x1': clean, 'x2': 0.5, 'x4': small, 'x8': small}
        figures = {'accuracy': clean, 'tar@1e-3': 0, 'pairs': 10_000, 'lowres': lowres}
        return {'run': run, 'seed': 1, 'images': 1, 'precision': '32', 'results': {'lfw': figures}}
    study = Study('x', 'X', '', 'r', {'a': {}, 'b': {}}, lowres=True, expect=(('a', 'b'),))
    text = report(study, [row('a', 0.6, 0.8), row('b', 0.9, 0.7)])
    assert '| a > b | +0.00 +- 0.71 | +10.00 +- 0.61 | +10.00 +- 0.61 | not told apart, holds, holds |' in text


def test_a_set_that_was_named_later_leaves_the_earlier_runs_readable():
    figures = {'accuracy': 0.5, 'tar@1e-3': 0, 'pairs': 9}
    rows = [{'run': run, 'seed': 1, 'images': 1, 'precision': '32', 'results': dict.fromkeys(sets, figures)}
            for run, sets in (('a', ('lfw',)), ('b', ('lfw', 'agedb')))]
    text = report(Study('x', 'X', '', 'r', {'a': {}, 'b': {}}), rows)
    assert 'lfw accuracy' in text and 'agedb' not in text
    rows[0]['results']['agedb'] = {**figures, 'pairs': 8}  # another set of that name
    text = report(Study('x', 'X', '', 'r', {'a': {}, 'b': {}}), rows)
    assert 'lfw accuracy' in text and 'agedb' not in text
    rows[0]['results'] = {}
    text = report(Study('x', 'X', '', 'r', {'a': {}, 'b': {}}), rows)
    assert '| run | seeds |\n|---|---|\n| a | 1 |\n| b | 1 |\n' in text and 'no set that all runs were measured on' in text


def test_curves_are_drawn(study, tmp_path):
    pytest.importorskip('matplotlib')
    curve = {'epoch': [0.5, 1.0], 'margin': [9.0, 7.0]}
    plot_curves(study, [{'run': 'student', 'seed': 1, 'curve': curve}], tmp_path / 'x.png')
    assert (tmp_path / 'x.png').stat().st_size > 10_000


def test_shipped_studies_load():
    names = list_studies()
    assert 'fdfacenet_ablation' in names and len(names) == len(list(STUDIES.glob('*.yaml')))
    for name in names:
        assert load_study(name).runs


@pytest.mark.parametrize('runs', ['{a: {teachers: ["@teachr"]}}', '{a: {teachers: ["@a"]}}',
                                  '{b: {teachers: ["@a"]}, a: {}}'])
def test_a_teacher_stands_before_those_it_teaches(tmp_path, runs):
    (tmp_path / 'x.yaml').write_text(f'title: x\nclaim: x\nrecipe: x\nruns: {runs}')
    with pytest.raises(RecipeError, match=r"x\.yaml: [ab]: teachers: no run '(a|teachr)' before it"):
        load_study(str(tmp_path / 'x.yaml'))


def test_wrong_studies(tmp_path):
    with pytest.raises(RecipeError, match='unknown study'):
        load_study('fdfacenet_ablatoin')
    (tmp_path / 'x.yaml').write_text('titel: x')
    with pytest.raises(RecipeError, match="did you mean 'title'"):
        load_study(str(tmp_path / 'x.yaml'))
    (tmp_path / 'x.yaml').write_text('title: x\nclaim: x\nrecipe: x\nruns: {base: {}}\nexpect: [[base, bsae]]')
    with pytest.raises(RecipeError, match="expect: no run 'bsae'; did you mean 'base'"):
        load_study(str(tmp_path / 'x.yaml'))
