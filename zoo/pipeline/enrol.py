"""Galleries from folders ``people/NAME/*.jpg``: one clear face a picture, and a reason for every picture that has none."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plugins.preprocess import FaceError
from zoo.pipeline.gallery import KnownPersons, clean_name
from zoo.pipeline.pictures import find_pictures
from zoo.pipeline.recogniser import Face, Pipeline, Scene
from zoo.progress import progress_bar

__all__ = ['Enrolment', 'enrol_folder', 'the_face']

_RIVAL = 0.5  # a second face with more than this share of the largest one's area makes a picture ambiguous


@dataclass(frozen=True)
class Enrolment:
    """What came of the pictures.

    Attributes:
        enrolled: pictures by person, each as the gallery has it: by its absolute path, links resolved.
        refused: path of a picture and why it was not enrolled.
        doubtful: path of an enrolled picture and its similarity to the person's other pictures, where that is below the
            threshold: perhaps somebody else. It is compared with those enrolled before and with those of now separately, so
            that neither group outvotes the other; the lower similarity counts.
        passed: what lies in the folder and was not looked at, by reason.
        persons: in the gallery now.
    """

    enrolled: dict[str, list[str]]
    refused: list[tuple[str, str]]
    doubtful: list[tuple[str, float]]
    passed: dict[str, list[Path]]
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
                 threshold: float | None = None, progress: bool = False) -> Enrolment:
    """Enrol every picture of ``folder/NAME/``; pictures that lie deeper belong to the same person.

    Args:
        pipeline: its gate decides; :data:`zoo.pipeline.quality.ENROLMENT` is meant for this.
        threshold: cosine up to which a picture is reported as doubtful.
        progress: show a bar.

    Raises:
        FaceError: no such folder, no folder of a person in it, or no picture could be enrolled (the gallery is then as before).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FaceError(f'{folder}: no such folder; pictures are expected as {folder}/NAME/PICTURE.jpg')
    looked = find_pictures([folder])
    names = {path: below.parts[0] for path, below in looked.pictures.items()
             if len(below.parts) > 1 and below.parts[0].strip()}
    if not names:
        raise FaceError(f'{folder}: pictures are expected in a folder for each person, {folder}/NAME/PICTURE.jpg')
    rows, refused = defaultdict(dict), []
    with progress_bar(len(names), 'pictures', 'enrol', progress) as bar:
        for path, scene in zip(names, pipeline.stream(names), strict=True):
            face = the_face(scene)
            if isinstance(face, str):
                refused.append((str(path), face.removeprefix(f'{path}: ')))
            else:  # relative, the path would be another picture's tomorrow
                rows[clean_name(names[path])][str(path.resolve())] = face.embedding
            bar.update(1)
    if not rows:
        reasons = '; '.join(f'{path}: {why}' for path, why in refused[:3])
        raise FaceError(f'{folder}: none of {len(names)} pictures could be enrolled: {reasons}')
    loose = [path for path in looked.pictures if path not in names]
    doubtful = []
    for name, found in rows.items():
        if threshold is not None:
            doubtful += _doubtful(found, gallery.faces(name), threshold)
        gallery.add(name, np.stack([*found.values()]), [*found])
    return Enrolment({name: [*found] for name, found in rows.items()}, refused, doubtful,
                     looked.passed | ({"in nobody's folder": loose} if loose else {}), len(gallery))


def _doubtful(new: dict[str, np.ndarray], known: dict[str, np.ndarray], threshold: float) -> list[tuple[str, float]]:
    """The new pictures of a person that are unlike the other new ones, or unlike those enrolled before."""
    table, before = np.stack([*new.values()]), [row for path, row in known.items() if path not in new]
    lowest = np.ones(len(table))
    if len(table) > 1:
        lowest = (table @ table.sum(0) - 1) / (len(table) - 1)
    if before:
        lowest = np.minimum(lowest, table @ np.mean(before, 0))
    return [(path, float(similarity)) for path, similarity in zip(new, lowest, strict=True) if similarity <= threshold]
