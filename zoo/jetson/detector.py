"""Pictures to faces on an engine."""

import numpy as np

from .decode import decode, fit, intersection_over_union, suppress
from .engine import EngineError

__all__ = ['Detector', 'agrees', 'compare']


class Detector:
    """Pictures to boxes, landmarks and scores.

    Args:
        engine: with the outputs of InsightFace's contract.
        facts: the mapping from ``bundle.json``: strides, score, mean, std, outputs (names in the contract's order).
    """

    def __init__(self, engine, facts):
        self.engine, self.facts = engine, facts

    def __call__(self, picture):
        """Faces of a picture uint8 RGB ``(H, W, 3)``, in its own pixels, best first.

        Returns:
            Boxes float32 ``(F, 4)`` x1, y1, x2, y2; landmarks float32 ``(F, 5, 2)``: left eye, right eye, nose, mouth corners,
            image-left first; scores float32 ``(F,)``.

        Raises:
            EngineError: no such picture, or the engine could not run.
        """
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise EngineError('a picture must be uint8 RGB (H, W, 3); this is %s %s' % (picture.dtype, picture.shape))
        padded, factors = fit(picture, max(self.engine.largest[2:]), self.facts['strides'][-1])
        image = (padded.astype(np.float32) - self.facts['mean']) / self.facts['std']
        outputs = self.engine(image.transpose(2, 0, 1)[None])
        boxes, landmarks, scores = decode([outputs[name] for name in self.facts['outputs']], padded.shape[:2],
                                          self.facts['strides'], self.facts['score'])
        kept = suppress(boxes, scores)
        return boxes[kept] / np.tile(factors, 2), landmarks[kept] / factors, scores[kept]


def compare(expected, found):
    """How well detections agree: ``(boxes, landmarks, scores)`` each.

    Returns:
        Mapping of ``faces`` (expected), ``found``, ``min_iou`` (of the expected face that is met worst, 0 when one is missed)
        and ``landmark_error`` (largest distance of a landmark, as a fraction of that face's eye distance).
    """
    result = {'faces': len(expected[0]), 'found': len(found[0]), 'min_iou': 0.0, 'landmark_error': float('inf')}
    if len(expected[0]) and len(found[0]):
        overlaps = intersection_over_union(expected[0], found[0])
        distances = np.linalg.norm(expected[1] - found[1][overlaps.argmax(1)], axis=2).max(1)
        eyes = np.linalg.norm(expected[1][:, 0] - expected[1][:, 1], axis=1)
        result.update(min_iou=float(overlaps.max(1).min()), landmark_error=float((distances / eyes).max()))
    return result


def agrees(result, accept):
    """Whether what :func:`compare` found is good enough: no face more or less, and ``accept``'s overlap and landmark error."""
    return bool(result['faces'] and result['found'] == result['faces'] and result['min_iou'] >= accept['min_iou']
                and result['landmark_error'] <= accept['landmark_error'])  # written so that NaN is not
