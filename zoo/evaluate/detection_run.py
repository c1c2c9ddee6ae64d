"""A detector on annotated pictures: detections of all of them, and every figure that their benchmark knows."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from plugins.data.pictures import Pictures
from plugins.faces import Faces
from zoo.evaluate.detection import GroundTruth, evaluate_detections
from zoo.evaluate.detection_sets import DetectionSet
from zoo.evaluate.fddb import discrete_roc, hit_rate
from zoo.progress import progress_bar
from zoo.runtime.detector import Detector

__all__ = ['LOWEST', 'Detections', 'detect_pictures', 'summarise']

LOWEST = 0.02  # score down to which detections are asked for: what test_widerface.py of RetinaFace takes
FALSE_ALARMS = (100, 500, 1000, 2000)


@dataclass(frozen=True)
class Detections:
    """By picture: what was found, and its height and width."""

    found: dict[str, Faces]
    shapes: dict[str, tuple[int, int]]


def detect_pictures(detector: Detector, data: DetectionSet, root: str | os.PathLike, progress: bool = False) -> Detections:
    """Run a detector over the pictures of a set, as they are stored: boxes were annotated without the EXIF orientation.

    Args:
        detector: with a low score (:data:`LOWEST`), else average precision is cut off.
        root: folder or zip, or folder in a zip, below which the pictures have the set's names.

    Raises:
        FaceError: a picture is missing or damaged.
    """
    pictures, detections = Pictures(root, data.faces), Detections({}, {})
    with progress_bar(len(pictures), 'pictures', 'detect', progress) as bar:
        for index, name in enumerate(pictures.names):
            picture, _ = pictures.load(index)
            detections.found[name], detections.shapes[name] = detector(picture), picture.shape[:2]
            bar.update(1)
    return detections


def summarise(data: DetectionSet, detections: Detections, threshold: float) -> dict:
    """Average precision and more of every subset; for FDDB also the mean over the folds and the discrete ROC.

    Args:
        threshold: score at which recall, precision and false alarms are given.

    Returns:
        Plain mapping: ``subsets`` (:class:`zoo.evaluate.detection.DetectionResult` each), ``mean_ap_of_folds`` and
        ``discrete_roc`` (share of the faces hit by false alarms in all).
    """
    scores = np.concatenate([f.scores for f in detections.found.values()])
    spread = (float(scores.min()), float(scores.max())) if len(scores) else None
    subsets = {}
    for subset, counts in data.subsets.items():
        truth = [GroundTruth(data.faces[name], mask) for name, mask in counts.items()]
        subsets[subset] = evaluate_detections([detections.found[name] for name in counts], truth, threshold, spread=spread)
    report = {'subsets': {subset: result.to_dict() for subset, result in subsets.items()}}
    if data.ellipses:
        names = list(data.ellipses)
        roc = discrete_roc(*([by[name] for name in names] for by in (detections.found, data.ellipses, detections.shapes)))
        report['mean_ap_of_folds'] = float(np.mean([result.ap for subset, result in subsets.items() if subset != 'all']))
        report['discrete_roc'] = {str(at): hit_rate(roc, subsets['all'].faces, at) for at in FALSE_ALARMS}
    return report
