"""Labels by a teacher: its detections at two scales and mirrored, joined, so that they are better than those of any one
view."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from plugins.data.pictures import Pictures, write_labels
from plugins.faces import Faces
from plugins.files import write_atomic
from zoo.jetson.decode import fit, intersection_over_union
from zoo.progress import progress_bar
from zoo.runtime.detector import DetectorNet, candidates

__all__ = ['label_pictures', 'vote']

LOWEST = 0.3  # faces scored lower are not written down; a trainer decides from which score on they are certain
SCALES = (1.0, 2.0)
LONGEST = 640  # side to which larger pictures are scaled down for the first view: in them a face may be larger than any anchor
OVERLAP = 0.5  # intersection over union from which two detections are of one face


def label_pictures(net: DetectorNet, root: str, path: Path) -> None:
    """Label the pictures below ``root``, into the file ``path``."""
    pictures, labels = Pictures(root), {}
    with progress_bar(len(pictures), 'pictures', 'label') as bar:
        for index, name in enumerate(pictures.names):
            labels[name] = vote(net, pictures.load(index)[0])
            bar.update(1)
    write_atomic(path, write_labels(labels))


def vote(net: DetectorNet, picture: np.ndarray) -> Faces:
    """Faces of a picture uint8 RGB from its views, mirrored ones too: boxes and landmarks are the score-weighted means of all
    detections that overlap the best one, the score is its own. The first view has a longest side of at most :data:`LONGEST`
    pixels, the others are :data:`SCALES` times as large."""
    first = fit(picture, LONGEST, 1)[0]
    found = []
    for scale in SCALES:
        size = round(scale * first.shape[1]), round(scale * first.shape[0])
        smooth = cv2.INTER_AREA if size[0] < picture.shape[1] else cv2.INTER_CUBIC
        # of the picture, not of its first view, which has lost the small faces
        view = cv2.resize(picture, size, interpolation=smooth) if scale != 1 else first
        factors = np.float32([size[0] / picture.shape[1], size[1] / picture.shape[0]])
        mirror = np.float64([[-1, 0, size[0] - 1], [0, 1, 0]])
        found.append(_detect(net, view).scaled(1 / factors))
        found.append(_detect(net, np.ascontiguousarray(view[:, ::-1])).warped(mirror).scaled(1 / factors))
    return _merge(Faces.join(found))


def _detect(net: DetectorNet, view: np.ndarray) -> Faces:
    return candidates(net, fit(view, max(view.shape), net.strides[-1])[0], LOWEST)


def _merge(faces: Faces) -> Faces:
    faces = faces[np.argsort(-faces.scores, kind='stable')]
    merged = []
    while len(faces):
        together = intersection_over_union(faces.boxes[:1], faces.boxes)[0] >= OVERLAP
        together[0] = True
        group = faces[together]
        weight = group.scores / group.scores.sum()
        merged.append([*(weight @ group.boxes), *(weight @ group.landmarks.reshape(-1, 10)), group.scores[0]])
        faces = faces[~together]
    return Faces.from_rows(merged)
