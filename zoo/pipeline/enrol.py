"""Galleries from folders ``people/NAME/*.jpg``: one clear face a picture, and a reason for every picture that has none."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plugins.preprocess import FaceError
from zoo.pipeline.gallery import KnownPersons
from zoo.pipeline.pictures import find_pictures
from zoo.pipeline.recogniser import Face, Pipeline, Scene

__all__ = ['Enrolment', 'enrol_folder', 'the_face']

_RIVAL = 0.5  # a second face with more than this share of the largest one's area makes a picture ambiguous


@dataclass(frozen=True)
class Enrolment:
    """What came of the pictures.

    Attributes:
        enrolled: pictures by person.
        refused: path of a picture and why it was not enrolled.
        doubtful: path of an enrolled picture and its similarity to the person's other pictures, where that is below the
            threshold: perhaps somebody else.
        persons: in the gallery now.
    """

    enrolled: dict[str, list[str]]
    refused: list[tuple[str, str]]
    doubtful: list[tuple[str, float]]
    persons: int


def the_face(scene: Scene) -> Face | str:
    """The face that a picture of one person shows, or why there is no telling."""
    if scene.error:
        return scene.error
    if not scene.faces:
        return 'no face found'
    first, *others = sorted(scene.faces, key=lambda face: -face.quality.side)
    if others and (others[0].quality.side / first.quality.side) ** 2 > _RIVAL:
        return f'{len(scene.faces)} faces of similar size: cut out the one that is meant'
    return first.refused or first


def enrol_folder(pipeline: Pipeline, gallery: KnownPersons, folder: str | os.PathLike,
                 threshold: float | None = None) -> Enrolment:
    """Enrol every picture of ``folder/NAME/``; pictures that lie deeper belong to the same person.

    Args:
        pipeline: its gate decides; :data:`zoo.pipeline.quality.ENROLMENT` is meant for this.
        threshold: cosine below which a picture is reported as doubtful.

    Raises:
        FaceError: no such folder, no folder of a person in it, or no picture could be enrolled (the gallery is then as before).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FaceError(f'{folder}: no such folder; pictures are expected as {folder}/NAME/PICTURE.jpg')
    paths = [path for path in find_pictures([folder]) if path.parent != folder]
    if not paths:
        raise FaceError(f'{folder}: pictures are expected in a folder for each person, {folder}/NAME/PICTURE.jpg')
    rows, refused = defaultdict(list), []
    for path, scene in zip(paths, pipeline.stream(paths), strict=True):
        face = the_face(scene)
        if isinstance(face, str):
            refused.append((str(path), face.removeprefix(f'{path}: ')))
        else:
            rows[path.relative_to(folder).parts[0]].append((str(path), face.embedding))
    if not rows:
        reasons = '; '.join(f'{path}: {why}' for path, why in refused[:3])
        raise FaceError(f'{folder}: none of {len(paths)} pictures could be enrolled: {reasons}')
    for name, found in rows.items():
        gallery.add(name, np.stack([embedding for _, embedding in found]), [path for path, _ in found])
    return Enrolment({name: [path for path, _ in found] for name, found in rows.items()}, refused,
                     _doubtful(rows, threshold) if threshold is not None else [], len(gallery))


def _doubtful(rows: dict[str, list[tuple[str, np.ndarray]]], threshold: float) -> list[tuple[str, float]]:
    found = []
    for pictures in rows.values():
        if len(pictures) < 2:
            continue
        table = np.stack([embedding for _, embedding in pictures])
        similarity = (table @ table.T - np.eye(len(table))).sum(1) / (len(table) - 1)
        found += [(path, float(s)) for (path, _), s in zip(pictures, similarity, strict=True) if s < threshold]
    return found
