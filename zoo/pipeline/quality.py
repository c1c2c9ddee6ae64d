"""Which faces are good enough to be compared: size, turn and sharpness, each with the reason for a refusal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plugins.faces import Faces

__all__ = ['ENROLMENT', 'Quality', 'QualityGate', 'assess']


@dataclass(frozen=True)
class Quality:
    """What is measured of a face.

    Attributes:
        score: the detector's.
        side: mean side of the box, pixels of the picture.
        turn: how far the nose is from the middle between the eyes along the line through them, in half eye distances: about 0
            from the front, 1 when the nose covers an eye, larger in profile.
        sharpness: variance of the Laplacian of the aligned grey crop; below about 20 details are lost.
    """

    score: float
    side: float
    turn: float
    sharpness: float

    def to_dict(self) -> dict:
        return {key: round(value, 3) for key, value in vars(self).items()}


@dataclass(frozen=True)
class QualityGate:
    """Lowest quality of a face that is compared; the defaults only keep out what has too few pixels to be anybody, and leave
    the score to the detector.

    Attributes:
        score, side, sharpness: at least; turn: at most. See :class:`Quality`.
    """

    score: float = 0.0
    side: float = 16.0
    turn: float = float('inf')
    sharpness: float = 0.0

    def reason(self, quality: Quality) -> str | None:
        """Why a face is refused, or None."""
        if quality.score < self.score:
            return f'detector score {quality.score:.2f} below {self.score:g}'
        if quality.side < self.side:
            return f'{quality.side:.0f} pixels small, at least {self.side:g} are needed'
        if quality.turn > self.turn:
            return f'turned away ({quality.turn:.2f}, at most {self.turn:g})'
        if quality.sharpness < self.sharpness:
            return f'blurred ({quality.sharpness:.0f}, at least {self.sharpness:g})'
        return None


ENROLMENT = QualityGate(score=0.6, side=32.0, turn=1.5)  # a gallery is asked for ever: it takes better pictures than a probe


def assess(faces: Faces, crops: np.ndarray) -> list[Quality]:
    """The quality of every face from its detection and its aligned crop uint8 RGB ``(F, S, S, 3)``."""
    import cv2
    left, right, nose = faces.landmarks[:, 0], faces.landmarks[:, 1], faces.landmarks[:, 2]
    axis, middle = right - left, (left + right) / 2
    turn = 2 * np.abs(((nose - middle) * axis).sum(1)) / np.maximum(np.square(axis).sum(1), 1e-6)
    sharpness = [float(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var()) for crop in crops]
    sides = faces.sides.mean(1)
    return [Quality(*map(float, values)) for values in zip(faces.scores, sides, turn, sharpness, strict=True)]
