"""Faces drawn into pictures: boxes, landmarks, names; and contact sheets of many pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from zoo.pipeline.recogniser import Face, Scene

__all__ = ['contact_sheet', 'draw_scene', 'shrink']

KNOWN, UNKNOWN, REFUSED = (46, 160, 67), (215, 120, 0), (128, 128, 128)  # RGB; readable on light and dark, red-green blind too
_BACKGROUND, _INK = (250, 250, 250), (40, 40, 40)
_ROOM = 40  # pixels; in narrower boxes landmarks would hide the face
_REFERENCE = 900  # longest side at which lines are two pixels wide


def draw_scene(scene: Scene) -> np.ndarray:
    """A copy of the picture, uint8 RGB, with its faces: green and a name, orange when unknown, grey when not compared."""
    picture = scene.picture.copy()
    scale = max(picture.shape[:2]) / _REFERENCE
    for face in scene.faces:
        _draw_face(picture, face, scale)
    return picture


def _draw_face(picture: np.ndarray, face: Face, scale: float) -> None:
    import cv2
    colour = REFUSED if face.refused else KNOWN if face.name else UNKNOWN
    width = max(1, round(2 * scale))
    left, top, right, bottom = (round(float(v)) for v in face.box)
    cv2.rectangle(picture, (left, top), (right, bottom), colour, width, cv2.LINE_AA)
    radius = max(1, round((right - left) / 40))
    for x, y in face.landmarks if right - left > _ROOM else ():
        cv2.circle(picture, (round(float(x)), round(float(y))), radius, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(picture, (round(float(x)), round(float(y))), radius, colour, 1, cv2.LINE_AA)
    text = _label(face)
    if text:
        _write(picture, text, (left, top), bottom, colour, scale)


def _label(face: Face) -> str:
    if face.name:
        return f'{face.name} {face.match.score:.2f}'
    if face.refused:
        return ''
    return f'unknown {face.match.score:.2f}' if face.match else f'{face.quality.score:.2f}'


def _write(picture: np.ndarray, text: str, corner: tuple[int, int], bottom: int, colour: tuple, scale: float) -> None:
    """White on a plate of the colour, above the box or, where there is no room, below it; kept inside the picture."""
    plate = _plate(text, max(12, round(17 * scale)), colour)
    height, width = (min(a, b) for a, b in zip(plate.shape[:2], picture.shape[:2], strict=True))
    left = min(max(corner[0], 0), picture.shape[1] - width)
    top = corner[1] - height if corner[1] >= height else bottom
    top = min(max(top, 0), picture.shape[0] - height)
    picture[top:top + height, left:left + width] = plate[:height, :width]


def _plate(text: str, size: int, colour: tuple) -> np.ndarray:
    """The text, of any script that the font has, white on ``colour``."""
    from PIL import Image, ImageDraw, ImageFont
    font = ImageFont.load_default(size)
    left, _, right, _ = font.getbbox(text)
    pad = max(2, size // 5)
    ascent, descent = font.getmetrics()
    image = Image.new('RGB', (math.ceil(right - min(left, 0)) + 2 * pad, ascent + descent + pad), colour)
    ImageDraw.Draw(image).text((pad - min(left, 0), pad // 2), text, font=font, fill=(255, 255, 255))
    return np.asarray(image)


def contact_sheet(scenes: Sequence[Scene], cell: int = 320, columns: int | None = None) -> np.ndarray:
    """All pictures, drawn, in a grid with their names below; uint8 RGB.

    Args:
        cell: side of the square that a picture is fitted into.
    """
    import cv2
    columns = columns or max(1, min(len(scenes), math.ceil(math.sqrt(len(scenes)))))
    caption = 24
    rows = math.ceil(len(scenes) / columns)
    sheet = np.full((rows * (cell + caption), columns * cell, 3), _BACKGROUND, np.uint8)
    for number, scene in enumerate(scenes):
        top, left = number // columns * (cell + caption), number % columns * cell
        if scene.picture is not None:
            picture = draw_scene(shrink(scene, cell - 8))
            height, width = picture.shape[:2]
            y, x = top + (cell - height) // 2, left + (cell - width) // 2
            sheet[y:y + height, x:x + width] = picture
        name = str(scene.source).rpartition('/')[2] if not isinstance(scene.source, bytes | np.ndarray) else f'{number}'
        text = f'{name}: cannot be read' if scene.error else name
        cv2.putText(sheet, text[:cell // 8], (left + 6, top + cell + 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, _INK, 1, cv2.LINE_AA)
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
