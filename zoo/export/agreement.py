"""Do two detectors find the same faces? Measured on pictures that the second one was not made from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zoo.evaluate.detection import GroundTruth, evaluate_detections, overlaps
from zoo.export.parity import GateError
from zoo.runtime.detector import FaceDetector

__all__ = ['LIMITS', 'DetectionJudge', 'require_agreement']

DOUBT, OVERLAP = 0.1, 0.5
# least recall and precision; largest mean distance of a landmark, a fraction of the distance between the eyes
LIMITS = {'recall': 0.97, 'precision': 0.97, 'landmark_error': 0.035}


class DetectionJudge:
    """Compares detectors with a reference, whose own detections are the truth.

    A face that the reference scores within 0.1 of its threshold is in doubt: it need not be found, and is no false alarm.

    Args:
        reference: runs over the pictures once, here.
        pictures: uint8 RGB ``(H, W, 3)`` each.

    Attributes:
        faces: by picture, how many are to be found.
    """

    def __init__(self, reference: FaceDetector, pictures: Sequence[np.ndarray]) -> None:
        self.threshold, self._pictures = reference.threshold, pictures
        detector = FaceDetector(reference.net, reference.size, self.threshold - DOUBT)
        found = [detector(picture) for picture in pictures]
        self._truth = [GroundTruth(faces, faces.scores >= self.threshold + DOUBT) for faces in found]
        self.faces = [int(truth.counts.sum()) for truth in self._truth]

    def __call__(self, candidate: FaceDetector) -> dict:
        """How well a detector with the reference's threshold agrees.

        Returns:
            Mapping of ``pictures``, ``faces``, ``threshold``, ``recall`` and ``precision`` (at IoU 0.5), ``false_alarms`` (a
            picture), ``landmark_error`` and ``landmark_error_p95`` (mean over the five points, a fraction of the distance
            between the eyes; None when no face was found) and ``mean_iou`` of the faces found.

        Raises:
            ValueError: the reference finds no face that counts.
        """
        found = [candidate(picture) for picture in self._pictures]
        report = evaluate_detections(found, self._truth, self.threshold, OVERLAP).to_dict()
        del report['ap']  # means nothing without the detections of low scores
        best = [overlaps(truth.faces.boxes[truth.counts], faces.boxes).max(1)
                for truth, faces in zip(self._truth, found, strict=True) if truth.counts.any() and len(faces)]
        hits = [value for row in best for value in row if value >= OVERLAP]
        return report | {'mean_iou': float(np.mean(hits)) if hits else None}


def require_agreement(report: dict) -> None:
    """Pass a report of :class:`DetectionJudge`, or not.

    Raises:
        GateError: a figure is beyond :data:`LIMITS`; the message names all that are.
    """
    error = float('nan') if report['landmark_error'] is None else report['landmark_error']
    failed = [f'{key} {report[key]:.3f} (at least {LIMITS[key]} is asked)' for key in ('recall', 'precision')
              if not report[key] >= LIMITS[key]]
    if not error <= LIMITS['landmark_error']:
        failed.append(f'landmark error {error:.3f} of the eye distance (at most {LIMITS["landmark_error"]})')
    if failed:
        raise GateError(f'agreement gate, {report["faces"]} faces in {report["pictures"]} pictures: {"; ".join(failed)}',
                        report)
