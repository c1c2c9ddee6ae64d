"""Pictures with labelled faces, in RetinaFace's ``label.txt`` format for WIDER FACE.

::

    # 0--Parade/0_Parade_marchingband_1_849.jpg
    449 330 122 149 488.906 373.643 0.0 542.089 376.442 0.0 515.031 412.83 0.0 485.174 425.893 0.0 538.357 431.491 0.0 0.82

A face is x, y, width, height of its box, then x, y and a flag of five landmarks (-1 -1 -1: not known), then how clear it is,
which is not read: a small or blurred face may have 0.2, and is a face. facezoo's own label files have -1 there, and then the
teacher's score. Files with boxes only (WIDER's validation list) are read too.
"""

from __future__ import annotations

import io
import os

import numpy as np

from plugins.data.sources import TreeFaces
from plugins.faces import Faces
from plugins.preprocess import FaceError, decode_image

__all__ = ['Pictures', 'read_labels', 'write_labels']

LANDMARKS, SCORED = 19, 21  # numbers of a face up to its landmarks, and with a teacher's score


def read_labels(text: str, name: str = 'label.txt') -> dict[str, Faces]:
    """Faces by picture name.

    Raises:
        FaceError: a line that is neither a picture nor a face; the message names it.
    """
    rows: dict[str, list] = {}
    picture = None
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith('#'):
            picture = line.removeprefix('#').strip()
            rows.setdefault(picture, [])
        elif line:
            if picture is None:
                raise FaceError(f'{name}, line {number}: a face before the first "# picture.jpg"')
            rows[picture].append(_read_face(line, f'{name}, line {number}'))
    return {picture: Faces.from_rows(faces) for picture, faces in rows.items()}


def _read_face(line: str, where: str) -> list[float]:
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        values = []
    if len(values) < 4 or not np.isfinite(values).all() or min(values[2:4]) < 0:
        raise FaceError(f'{where}: {line!r}: expected x y width height and, for landmarks, 5 times x y flag')
    x, y, width, height = values[:4]
    points = np.full((5, 2), np.nan)
    if len(values) >= LANDMARKS:
        given = np.array(values[4:LANDMARKS]).reshape(5, 3)
        points = np.where(given[:, 2:] < 0, np.nan, given[:, :2])  # by the flag: a point beyond the border is below 0, too
    return [x, y, x + width, y + height, *points.ravel(), values[20] if len(values) == SCORED else 1.0]


def write_labels(labels: dict[str, Faces]) -> str:
    """The text that :func:`read_labels` reads."""
    lines = []
    for picture, faces in labels.items():
        lines.append(f'# {picture}')
        for box, points, score in zip(faces.boxes, faces.landmarks, faces.scores, strict=True):
            flagged = [(-1, -1, -1) if np.isnan(p).any() else (round(float(p[0]), 2), round(float(p[1]), 2), 0.0)
                       for p in points]
            numbers = [*(round(float(v), 2) for v in (*box[:2], *(box[2:] - box[:2]))), *(v for p in flagged for v in p),
                       -1, round(float(score), 4)]
            lines.append(' '.join(f'{v:g}' for v in numbers))
    return '\n'.join(lines) + '\n'


class Pictures:
    """Pictures below a folder or in a zip archive with their labelled faces.

    Args:
        root: folder, zip, or folder in a zip.
        labels: by picture name relative to ``root``; pictures without an entry are left out. None: all pictures, without faces.

    Raises:
        FaceError: a label names a picture that is not there.
    """

    def __init__(self, root: str | os.PathLike, labels: dict[str, Faces] | None = None) -> None:
        self.tree = TreeFaces(root)
        labels = dict.fromkeys(self.tree.names, Faces.from_rows([])) if labels is None else labels
        missing = sorted(labels.keys() - set(self.tree.names))
        if missing:
            raise FaceError(f'{root}: {len(missing)} of {len(labels)} annotated pictures are not there, the first is '
                            f'{missing[0]!r}; name the folder that this path is relative to')
        self.names = sorted(labels)
        self.faces = [labels[name] for name in self.names]

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int, longest: int | None = None) -> tuple[np.ndarray, Faces]:
        """Picture uint8 RGB ``(H, W, 3)`` and its faces.

        Args:
            longest: when given, the picture may come at 1/2, 1/4 or 1/8 of its size as long as its longest side keeps so many
                pixels (the JPEG decoder saves the work); the faces are scaled alike.

        Raises:
            FaceError: the picture cannot be decoded.
        """
        name, faces = self.names[index], self.faces[index]
        data, reduced = self.tree.read_file(name), 1
        if longest:  # from the header, not from an earlier decoding: what is loaded must not depend on what was loaded before
            width, height = _header_size(data)
            reduced = next((f for f in (8, 4, 2) if max(width, height) >= f * longest), 1)
        picture = decode_image(data, f'{self.tree.root}/{name}', reduced=reduced)
        return picture, faces if reduced == 1 else faces.scaled(picture.shape[1] / width)


def _header_size(data: bytes) -> tuple[int, int]:
    """Width and height of an encoded picture; (0, 0) when its header cannot be read."""
    from PIL import Image
    try:
        return Image.open(io.BytesIO(data)).size
    except Exception:  # of any kind, with damaged bytes; also what Pillow finds too large
        return 0, 0
