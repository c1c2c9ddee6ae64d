"""LNRN's key-region box."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from plugins.data.keypoints import find_key_region, plot_key_region
from zoo.jetson.align import TEMPLATE, map_points

# section 3.3.1: the centres' extremes [39:73, 51:88] become the box [28:84, 34:90]
PAPER = np.float32([[39, 51], [73, 51], [56, 71], [42, 88], [70, 88]])


def noisy(template: np.ndarray, spread: float) -> np.ndarray:
    return template + np.random.default_rng(0).normal(0, spread, (200, 5, 2))


@pytest.mark.parametrize('spread', [0.5, 3])
def test_finds_the_box_of_the_paper(spread):
    region = find_key_region(noisy(PAPER, spread))
    np.testing.assert_allclose(region.centres, PAPER, atol=0.2 * spread)
    if spread < 1:
        assert region.bounds == (39, 51, 73, 88) and region.box == (28, 34, 84, 90)


def test_clusters_are_the_key_points():
    region = find_key_region(noisy(TEMPLATE, 2))
    assert (region.clusters == np.arange(5)).mean() > 0.99


def test_real_landmarks(crops):
    """The detector's landmarks of the sample photo, mapped into the aligned faces."""
    import zoo.pipeline.sample as sample
    landmarks = np.array(json.loads(Path(sample.__file__).with_name('sample.json').read_text())['landmarks'])
    aligned = map_points(landmarks)
    off = np.abs(aligned - TEMPLATE)
    assert off.max() < 16 and 0.1 < np.median(off) < 4  # one of the six faces is turned
    left, top, right, bottom = find_key_region(aligned).box
    assert (right - left, bottom - top) == (56, 56) and 24 <= left <= 32 and 34 <= top <= 42


def test_plot(tmp_path):
    pytest.importorskip('matplotlib')
    landmarks = noisy(PAPER, 2)
    plot_key_region(landmarks, find_key_region(landmarks), tmp_path / 'figure4.png')
    assert (tmp_path / 'figure4.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('landmarks', [np.zeros((1, 5, 2)), np.zeros((4, 5)), np.full((4, 5, 2), np.nan)])
def test_bad_input(landmarks):
    with pytest.raises(ValueError, match='key points of shape'):
        find_key_region(landmarks)


def test_unaligned_faces_are_refused():
    with pytest.raises(ValueError, match='are the faces aligned'):
        find_key_region(noisy(PAPER * 1.9 - 40, 1))


def test_a_file_of_something_else_is_named(tmp_path, capsys):
    from zoo.cli import main
    (tmp_path / 'points.csv').write_text('x1,y1,x2,y2\n1,2,3,4\n')
    assert main(['data', 'keypoints', str(tmp_path / 'points.csv')]) == 1
    assert "points.csv: could not convert string 'x1'" in capsys.readouterr().err


@pytest.mark.parametrize('shape', [(10, 11), (4, 5, 3), (20,), (5, 20)])
def test_more_than_points_is_refused(shape, tmp_path, capsys):
    """A score beside the points of each face, say: so many numbers in all that they could be other points."""
    from zoo.cli import main
    np.save(tmp_path / 'points.npy', np.zeros(shape))
    assert main(['data', 'keypoints', str(tmp_path / 'points.npy'), '--aligned']) == 1
    assert 'numbers are not five points' in capsys.readouterr().err
