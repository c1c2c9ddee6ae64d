"""Faces followed from frame to frame by the overlap of their boxes, so that a person is recognised once and not per frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from plugins.preprocess import l2_normalise
from zoo.pipeline.gallery import Match
from zoo.pipeline.recogniser import Face

__all__ = ['Track', 'Tracker']


@dataclass
class Track:
    """One person passing by.

    Attributes:
        number: from 1, never given twice.
        face: as last seen.
        missed: frames since then.
        looks: embeddings in ``total``, their sum; looked: frame of the last one.
        match: what the gallery says of their mean.
    """

    number: int
    face: Face
    missed: int = 0
    looks: int = 0
    looked: int = -1
    total: np.ndarray | None = field(default=None, repr=False)
    match: Match | None = None

    def look(self, embedding: np.ndarray, frame: int) -> None:
        """Take another embedding, unit length ``(D,)``, into the mean."""
        self.total = embedding.copy() if self.total is None else self.total + embedding
        self.looks, self.looked = self.looks + 1, frame

    @property
    def embedding(self) -> np.ndarray:
        """Mean of all looks, unit length ``(D,)``."""
        return l2_normalise(self.total[None])[0]


class Tracker:
    """Greedy matching by intersection over union, best pairs first (Bochinski et al. 2017, "IOU tracker").

    Args:
        overlap: least intersection over union of the same face in consecutive frames.
        patience: frames for which a face may be missed before its track ends.
    """

    def __init__(self, overlap: float = 0.3, patience: int = 8) -> None:
        self.overlap, self.patience = overlap, patience
        self.tracks: list[Track] = []
        self._count = 0

    def update(self, faces: tuple[Face, ...], steps: int = 1) -> list[Track]:
        """The tracks of the faces of the next frame, in their order.

        Args:
            steps: frames since the last call; more than 1 when some were dropped.
        """
        for track in self.tracks:
            track.missed += steps
        found: list[Track | None] = [None] * len(faces)
        for face, track in self._pairs(faces):
            if found[face] is None and track.missed:
                found[face] = track
                track.face, track.missed = faces[face], 0
        for index, track in enumerate(found):
            if track is None:
                self._count += 1
                found[index] = Track(self._count, faces[index])
                self.tracks.append(found[index])
        self.tracks = [track for track in self.tracks if track.missed <= self.patience]
        return found

    def _pairs(self, faces: tuple[Face, ...]) -> list[tuple[int, Track]]:
        """Overlapping faces and tracks, best first."""
        if not faces or not self.tracks:
            return []
        new, old = np.stack([face.box for face in faces]), np.stack([track.face.box for track in self.tracks])
        low, high = np.maximum(new[:, None, :2], old[None, :, :2]), np.minimum(new[:, None, 2:], old[None, :, 2:])
        inner = (high - low).clip(min=0).prod(2)
        areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (new, old)]
        overlap = inner / np.maximum(areas[0][:, None] + areas[1][None] - inner, 1e-9)
        order = np.argsort(-overlap, axis=None, kind='stable')
        pairs = zip(*np.unravel_index(order, overlap.shape), strict=True)
        return [(int(f), self.tracks[t]) for f, t in pairs if overlap[f, t] >= self.overlap]
