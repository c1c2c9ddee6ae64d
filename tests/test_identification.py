"""1:N identification: definitions by hand-made scores, and the protocol of paper 004 on a folder of persons."""

from __future__ import annotations

import json

import numpy as np
import pytest

from plugins.data.degrade import degrade
from plugins.data.sources import TreeFaces
from plugins.preprocess import FaceError, l2_normalise
from tests.test_ijb import PatchEmbedder
from zoo.cli import main
from zoo.evaluate.identification import (
    GalleryProtocol,
    draw_gallery,
    evaluate_identification,
    identify,
    identify_lowres,
)
from zoo.export.onnx import export_onnx


def at(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def test_ranks_and_dir():
    gallery, people = at(0, 10, 90), [0, 0, 1]
    # the third is nearer to person 1; the fifth is nearest to its own person, but less alike than a stranger is
    probes, shown = at(4, 88, 60, 12, 150, 50, 200), [0, 1, 0, 0, 1, 7, 8]
    result = evaluate_identification(probes, shown, gallery, people, ranks=(1, 2), fars=('5e-1', '1e-1'))
    assert result.rank == {1: 0.8, 2: 1.0} and (result.probes, result.unknown, result.persons) == (5, 2, 2)
    assert result.dir == {'5e-1': 0.8, '1e-1': 0.6}
    assert result.threshold == pytest.approx({'5e-1': np.cos(np.radians(110)), '1e-1': np.cos(np.radians(40))})
    flat = result.to_dict()
    assert (flat['rank-1'], flat['dir@1e-1'], flat['threshold@1e-1']) == (0.8, 0.6, result.threshold['1e-1'])


def test_a_probe_as_alike_as_a_stranger_is_not_found():
    result = evaluate_identification(at(30, 30), [0, 7], at(0, 90), [0, 1], fars=('1e-1',))
    assert result.rank[1] == 1 and result.threshold['1e-1'] == pytest.approx(np.cos(np.radians(30)))
    assert result.dir == {'1e-1': 0.0}


def test_equal_scores_count_against_the_own_person():
    result = evaluate_identification(at(45), [0], at(10, 10), [0, 1], ranks=(1, 2))
    assert result.rank == {1: 0.0, 2: 1.0}


def test_chunks_do_not_matter(monkeypatch):
    from zoo.evaluate import identification
    rng = np.random.default_rng(0)
    arguments = (l2_normalise(rng.normal(size=(50, 8))), rng.integers(9, size=50), l2_normalise(rng.normal(size=(20, 8))),
                 rng.integers(6, size=20))
    whole = evaluate_identification(*arguments)
    monkeypatch.setattr(identification, '_CHUNK', 7)
    assert evaluate_identification(*arguments) == whole and 0 < whole.rank[5] < 1


def test_gallery_of_a_folder(face_folder):
    source = TreeFaces(face_folder)
    protocol = GalleryProtocol(persons=4, enrol=2, probes=5, unknown=2)
    enrolled, searched = draw_gallery(source, protocol)
    assert len(enrolled) == 8 and len(searched) == 4 * 5 + 2 * 7 and not set(enrolled) & set(searched)
    assert len(set(source.labels[enrolled])) == 4 and len(set(source.labels[searched])) == 6
    again = draw_gallery(source, protocol)
    assert (enrolled == again[0]).all() and (searched == again[1]).all()
    result = identify(PatchEmbedder(), source, protocol)
    assert result.rank[1] > 0.5 and result.gallery == 8 and result.unknown == 14


def test_low_resolution_degrades_the_probes_alone(face_folder):
    source, protocol, seen = TreeFaces(face_folder), GalleryProtocol(persons=4, enrol=2, probes=5, unknown=2), []

    class Recorder(PatchEmbedder):
        def __call__(self, faces):
            seen.extend(faces)
            return super().__call__(faces)

    results = identify_lowres(Recorder(), source, protocol, factors=(1, 8), flip=False)
    assert results[1] == identify(PatchEmbedder(), source, protocol, flip=False)
    assert results[8].probes == results[1].probes == 20 and results[8] != results[1]
    sharp, poor = np.split(np.stack(seen), 2)
    assert (sharp[:8] == poor[:8]).all(), 'enrolled faces must stay as they are'
    assert np.array_equal(poor[8], degrade(sharp[8], 8, 1.0)) and not (sharp[8:] == poor[8:]).all((1, 2, 3)).any()


def test_command(face_folder, small_net, tmp_path, capsys):
    export_onnx(small_net, tmp_path / 'm.onnx')
    command = ['identify', str(tmp_path / 'm.onnx'), '--set', str(face_folder)]
    command += ['--persons', '4', '--probes', '5', '--unknown', '2']
    assert main([*command, '--json']) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain['flip'] is True and plain['gallery'] == 8
    assert main([*command, '--lowres', '--json']) == 0
    degraded = json.loads(capsys.readouterr().out)
    assert list(degraded['results']) == ['x1', 'x2', 'x4', 'x8']
    assert (degraded['degraded'], degraded['sigma']) == ('probes', 1.0)
    assert degraded['results']['x1'].items() <= plain.items()
    assert main([*command, '--no-flip', '--json']) == 0
    single = json.loads(capsys.readouterr().out)
    assert single['flip'] is False and single['threshold@1e-1'] != plain['threshold@1e-1']
    assert main([*command, '--lowres', '--no-flip']) == 0
    table = capsys.readouterr().out
    assert 'flip off; probes degraded' in table and 'rank-1 %' in table and 'dir@1e-1 %' in table and '\nx8 ' in table


def test_too_few_persons(face_folder):
    with pytest.raises(FaceError, match='6 of 6 persons have 8 images or more, but the protocol needs 30'):
        draw_gallery(TreeFaces(face_folder), GalleryProtocol(enrol=2, probes=6))
    with pytest.raises(FaceError, match='no probe shows a person of the gallery'):
        evaluate_identification(at(0), [3], at(0), [0])
    with pytest.raises(ValueError, match='probes=0'):
        GalleryProtocol(probes=0)


def test_fewer_than_no_strangers_are_refused():
    with pytest.raises(ValueError, match='unknown=-5: must be at least 0'):
        GalleryProtocol(unknown=-5)
