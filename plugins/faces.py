"""Where the faces of a picture are: what detectors return, what they learn from, and what alignment starts from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ['Faces']


@dataclass(frozen=True)
class Faces:
    """``F`` faces of one picture, in pixels.

    Attributes:
        boxes: float32 ``(F, 4)``: x1, y1, x2, y2.
        landmarks: float32 ``(F, 5, 2)``: x, y of left eye, right eye, nose, left and right mouth corner, image-left first; NaN
            where they are not known.
        scores: float32 ``(F,)`` in [0, 1].
    """

    boxes: np.ndarray
    landmarks: np.ndarray
    scores: np.ndarray

    @staticmethod
    def from_rows(rows) -> Faces:
        """Rows of 15 numbers: four of the box, ten of the landmarks, the score."""
        rows = np.asarray(rows, np.float32).reshape(-1, 15)
        return Faces(rows[:, :4], rows[:, 4:14].reshape(-1, 5, 2), rows[:, 14])

    @staticmethod
    def join(parts: list[Faces]) -> Faces:
        """All faces of several lists."""
        return Faces(*(np.concatenate([getattr(p, key) for p in parts]) for key in ('boxes', 'landmarks', 'scores')))

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index) -> Faces:
        """Some of the faces: a slice, an integer array or a mask."""
        return Faces(self.boxes[index], self.landmarks[index], self.scores[index])

    @property
    def sides(self) -> np.ndarray:
        """Widths and heights of the boxes, ``(F, 2)``."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    def scaled(self, factor: float | np.ndarray) -> Faces:
        """The same faces in a picture ``factor`` times as large; two numbers are factors in x and y."""
        factors = np.broadcast_to(np.float32(factor), 2)
        return Faces(self.boxes * np.tile(factors, 2), self.landmarks * factors, self.scores)

    def warped(self, matrix: np.ndarray) -> Faces:
        """The same faces in a picture warped by a similarity ``(2, 3)``, as ``cv2.warpAffine`` takes it.

        A mirrored face gets its left and right landmarks exchanged. A turned box becomes the box around the turned ellipse
        that it encloses: that is what stays of a face, which has no corners.
        """
        linear, shift = matrix[:, :2], matrix[:, 2]
        middle = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2 @ linear.T + shift
        half = np.sqrt(np.square(self.sides / 2) @ np.square(linear).T)
        landmarks = self.landmarks @ linear.T + shift
        if np.linalg.det(linear) < 0:
            landmarks = landmarks[:, [1, 0, 2, 4, 3]]
        boxes = np.concatenate([middle - half, middle + half], 1)
        return Faces(boxes.astype(np.float32), landmarks.astype(np.float32), self.scores)
