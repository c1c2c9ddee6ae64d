"""Faces drawn into pictures: boxes, landmarks, names; and contact sheets of many pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from zoo.pipeline.lettering import letter
from zoo.pipeline.recogniser import Face, Scene

__all__ = ['THUMBNAIL', 'contact_sheet', 'draw_scene', 'shrink']

KNOWN, UNKNOWN, REFUSED = (46, 160, 67), (215, 120, 0), (128, 128, 128)  # RGB; readable on light and dark, red-green blind too
_BACKGROUND, _INK = (250, 250, 250), (40, 40, 40)
_ROOM = 40  # pixels; in narrower boxes landmarks would hide the face
_WIDEST = 3  # times the width of its face, on a crowded picture
_REFERENCE = 900  # longest side at which lines are two pixels wide
_CELL, _CAPTION = 320, 24  # of a contact sheet, pixels: side of the square of a picture, height of its name below
THUMBNAIL = _CELL - 8  # longest side of a picture on it


def draw_scene(scene: Scene, crowded: bool = False) -> np.ndarray:
    """A copy of the picture, uint8 RGB, with its faces: green and a name, orange when unknown, grey when not compared.

    Args:
        crowded: leave out what is written at a face where it would be much wider than the face, or lie over another face or
            what is written there; its box stays.
    """
    picture = scene.picture.copy()
    scale = max(picture.shape[:2]) / _REFERENCE
    for face in scene.faces:
        _draw_face(picture, face, scale)
    taken: list[np.ndarray] = []
    for face in scene.faces:
        if not (text := _label(face)):
            continue
        plate = letter(text, max(12, round(17 * scale)), _colour(face))
        place = _place(plate, face, picture)
        if crowded:
            others = [*taken, *(other.box for other in scene.faces if other is not face)]
            if plate.shape[1] > _WIDEST * (face.box[2] - face.box[0]) or any(_overlap(place, other) for other in others):
                continue
            taken.append(place)
        left, top, right, bottom = place
        picture[top:bottom, left:right] = plate[:bottom - top, :right - left]
    return picture


def _colour(face: Face) -> tuple[int, int, int]:
    return REFUSED if face.refused else KNOWN if face.name else UNKNOWN


def _draw_face(picture: np.ndarray, face: Face, scale: float) -> None:
    import cv2
    colour = _colour(face)
    width = max(1, round(2 * scale))
    left, top, right, bottom = (round(float(v)) for v in face.box)
    cv2.rectangle(picture, (left, top), (right, bottom), colour, width, cv2.LINE_AA)
    radius = max(1, round((right - left) / 40))
    for x, y in face.landmarks if right - left > _ROOM else ():
        cv2.circle(picture, (round(float(x)), round(float(y))), radius, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(picture, (round(float(x)), round(float(y))), radius, colour, 1, cv2.LINE_AA)


def _label(face: Face) -> str:
    if face.name:
        return f'{face.name} {face.match.score:.2f}'
    if face.refused:
        return ''
    return f'unknown {face.match.score:.2f}' if face.match else f'{face.quality.score:.2f}'


def _place(plate: np.ndarray, face: Face, picture: np.ndarray) -> np.ndarray:
    """Where a plate goes, ``(4,)`` x1, y1, x2, y2: above the box or, where there is no room, below it; inside the picture."""
    height, width = (min(a, b) for a, b in zip(plate.shape[:2], picture.shape[:2], strict=True))
    left, top, _, bottom = (round(float(v)) for v in face.box)
    left = min(max(left, 0), picture.shape[1] - width)
    top = min(max(top - height if top >= height else bottom, 0), picture.shape[0] - height)
    return np.array([left, top, left + width, top + height])


def _overlap(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two boxes ``(4,)`` share a pixel."""
    return bool((np.minimum(one[2:], other[2:]) > np.maximum(one[:2], other[:2])).all())


def contact_sheet(scenes: Sequence[Scene]) -> np.ndarray:
    """All pictures, drawn, in a grid with their names below; uint8 RGB."""
    columns = max(1, math.ceil(math.sqrt(len(scenes))))
    rows = math.ceil(len(scenes) / columns)
    sheet = np.full((rows * (_CELL + _CAPTION), columns * _CELL, 3), _BACKGROUND, np.uint8)
    for number, scene in enumerate(scenes):
        top, left = number // columns * (_CELL + _CAPTION), number % columns * _CELL
        if scene.picture is not None:
            picture = draw_scene(shrink(scene, THUMBNAIL), crowded=True)
            height, width = picture.shape[:2]
            y, x = top + (_CELL - height) // 2, left + (_CELL - width) // 2
            sheet[y:y + height, x:x + width] = picture
        name = str(scene.source).rpartition('/')[2] if not isinstance(scene.source, bytes | np.ndarray) else f'{number}'
        text = f'{name}: cannot be read' if scene.error else name
        plate = letter(text, 13, _BACKGROUND, _INK, THUMBNAIL)[:_CAPTION, :THUMBNAIL]
        sheet[top + _CELL:top + _CELL + plate.shape[0], left + 4:left + 4 + plate.shape[1]] = plate
    return sheet


def shrink(scene: Scene, size: int) -> Scene:
    """The scene in a picture whose longest side is at most ``size``: drawn at that size, names stay legible."""
    import cv2
    factor = min(1.0, size / max(scene.picture.shape[:2]))
    if factor == 1:
        return scene
    target = tuple(max(1, round(side * factor)) for side in scene.picture.shape[1::-1])
    faces = tuple(replace(f, box=f.box * factor, landmarks=f.landmarks * factor) for f in scene.faces)
    return replace(scene, picture=cv2.resize(scene.picture, target, interpolation=cv2.INTER_AREA), faces=faces)
