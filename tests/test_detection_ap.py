"""Average precision of detectors: hand-made cases with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from plugins.faces import Faces
from zoo.evaluate.detection import GroundTruth, evaluate_detections, landmark_errors, overlaps

POINTS = np.float32([[2, 3], [7, 3], [5, 5], [3, 8], [6, 8]])


def faces(*rows) -> Faces:
    """Rows ``x, y, side, score``."""
    return Faces.from_rows([[x, y, x + side, y + side, *(POINTS * side / 10 + (x, y)).ravel(), score]
                            for x, y, side, score in rows])


def truth(*rows, counts=None) -> GroundTruth:
    made = faces(*((x, y, side, 1.0) for x, y, side in rows))
    return GroundTruth(made, np.ones(len(rows), bool) if counts is None else np.array(counts, bool))


def test_perfect_and_missed():
    ground = [truth((0, 0, 40), (100, 0, 40)), truth((50, 50, 40))]
    found = [faces((0, 0, 40, 0.9), (100, 0, 40, 0.8)), faces((50, 50, 40, 0.7))]
    result = evaluate_detections(found, ground)
    assert result.ap == pytest.approx(1, abs=2e-3) and result.recall == 1 and result.false_alarms == 0
    assert result.landmark_error == pytest.approx(0, abs=1e-6)
    result = evaluate_detections([found[0][:1], found[1][:0]], ground)
    assert result.recall == pytest.approx(1 / 3) and result.ap == pytest.approx(1 / 3, abs=2e-3)


def test_a_false_alarm_above_a_hit_halves_its_precision():
    result = evaluate_detections([faces((200, 200, 30, 0.9), (0, 0, 40, 0.6))], [truth((0, 0, 40))])
    assert result.ap == pytest.approx(0.5, abs=2e-3)
    assert result.false_alarms == 1 and result.precision == 0.5


def test_a_second_detection_of_a_face_is_a_false_alarm():
    result = evaluate_detections([faces((0, 0, 40, 0.9), (1, 1, 40, 0.8))], [truth((0, 0, 40))])
    assert result.recall == 1 and result.precision == 0.5


def test_faces_outside_the_subset_count_neither_way():
    result = evaluate_detections([faces((0, 0, 40, 0.9), (100, 0, 10, 0.95))],
                                 [truth((0, 0, 40), (100, 0, 10), (300, 0, 10), counts=[True, False, False])])
    assert result.recall == result.precision == 1 and result.faces == 1


def test_precision_is_the_best_that_is_reached_from_a_recall_on():
    """A false alarm, then two hits: precision 1/2 at the first and 2/3 at the second, which counts for both."""
    found = faces((200, 200, 30, 0.9), (0, 0, 40, 0.8), (100, 0, 40, 0.7))
    result = evaluate_detections([found], [truth((0, 0, 40), (100, 0, 40))])
    assert result.ap == pytest.approx(2 / 3, abs=2e-3)


def test_what_is_at_a_limit_counts():
    """Ten pixels a side, three to the right: 70 of 130 are shared; four: 60 of 140, less than half."""
    ground, near, far = [truth((0, 0, 9))], [faces((3, 0, 9, 0.5))], [faces((4, 0, 9, 0.5))]
    assert [evaluate_detections(near, ground, overlap=overlap).recall for overlap in (0.5, 70 / 130, 0.54)] == [1, 1, 0]
    assert evaluate_detections(far, ground).recall == 0 and evaluate_detections(near, ground, threshold=0.51).recall == 0


def test_figures_of_several_pictures():
    """Worst first: landmarks off by 1 and by 2 pixels where the eyes are 20 apart; one false alarm in two pictures."""
    found = faces((100, 0, 40, 0.6), (0, 0, 40, 0.9))
    found.landmarks[:, :, 0] += np.float32([[2], [1]])
    result = evaluate_detections([found, faces((9, 9, 40, 0.7))], [truth((0, 0, 40), (100, 0, 40)), truth((200, 200, 40))])
    assert (result.false_alarms, result.precision, result.recall) == (0.5, 2 / 3, 2 / 3)
    assert result.landmark_error == pytest.approx(0.075) and result.landmark_error_p95 == pytest.approx(0.0975)


def test_profiles_do_not_dominate():
    """Eyes that lie together count as three tenths of the distance between eyes and mouth apart."""
    profile = np.float32([[[5, 0], [5, 0], [9, 5], [5, 10], [5, 10]]])
    assert landmark_errors(profile + np.float32([0, 1]), profile)[0] == pytest.approx(1 / 3)


def test_landmark_error_is_relative_to_the_eyes():
    shifted = POINTS[None] + np.float32([1, 0])
    assert landmark_errors(shifted, POINTS[None])[0] == pytest.approx(1 / 5)


def test_overlap_counts_pixels_inclusively():
    assert overlaps(np.array([[0, 0, 9, 9]]), np.array([[0, 0, 9, 4]]))[0, 0] == pytest.approx(0.5)


def test_nothing_to_find_is_refused():
    with pytest.raises(ValueError, match='no face'):
        evaluate_detections([faces()], [truth((0, 0, 9), counts=[False])])
    with pytest.raises(ValueError, match='lists of detections'):
        evaluate_detections([], [truth((0, 0, 9))])
