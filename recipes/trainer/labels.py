"""Labels by a teacher: its detections at two scales and mirrored, joined, so that they are better than those of any one
view."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from plugins.data.pictures import Pictures, write_labels
from plugins.data.sources import TreeFaces
from plugins.faces import Faces
from plugins.files import write_atomic
from zoo.jetson.decode import fit, intersection_over_union
from zoo.progress import progress_bar
from zoo.runtime.detector import DetectorNet, decode_outputs

__all__ = ['label_pictures', 'vote']

LOWEST = 0.3  # faces scored lower are not written down; a trainer decides from which score on they are certain
SCALES = (1.0, 2.0)
LONGEST = 640  # side to which larger pictures are scaled down first: in them a face may be larger than any anchor


def label_pictures(net: DetectorNet, root: str, path: Path) -> None:
    """Label the pictures below ``root``, into the file ``path``."""
    tree = TreeFaces(root)
    unlabelled = Pictures(root, dict.fromkeys(tree.names, Faces.from_rows([])))
    labels = {}
    with progress_bar(len(unlabelled), 'pictures', 'label') as bar:
        for index, name in enumerate(unlabelled.names):
            labels[name] = vote(net, unlabelled.load(index)[0])
            bar.update(1)
    write_atomic(path, write_labels(labels))


def vote(net: DetectorNet, picture: np.ndarray, scales: tuple[float, ...] = SCALES, overlap: float = 0.5) -> Faces:
    """Faces of a picture uint8 RGB from several views: boxes and landmarks are the score-weighted means of all detections
    that overlap the best one, the score is its own. The first view of a picture has a longest side of at most 640 pixels."""
    picture, factors = fit(picture, LONGEST, 1)
    found = []
    for scale in scales:
        view = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) if scale != 1 else picture
        factor, width = view.shape[1] / picture.shape[1], view.shape[1]
        mirror = np.float64([[-1, 0, width - 1], [0, 1, 0]])
        found.append(_detect(net, view).scaled(1 / factor))
        found.append(_detect(net, np.ascontiguousarray(view[:, ::-1])).warped(mirror).scaled(1 / factor))
    return _merge(Faces.join(found), overlap).scaled(1 / factors)


def _detect(net: DetectorNet, view: np.ndarray) -> Faces:
    padded = fit(view, max(view.shape), net.strides[-1])[0]
    return decode_outputs([o[0] for o in net(padded[None])], padded.shape[:2], net.strides, LOWEST)


def _merge(faces: Faces, overlap: float) -> Faces:
    faces = faces[np.argsort(-faces.scores, kind='stable')]
    merged = []
    while len(faces):
        together = intersection_over_union(faces.boxes[:1], faces.boxes)[0] >= overlap
        together[0] = True
        group = faces[together]
        weight = group.scores / group.scores.sum()
        merged.append([*(weight @ group.boxes), *(weight @ group.landmarks.reshape(-1, 10)), group.scores[0]])
        faces = faces[~together]
    return Faces.from_rows(merged)
