"""Faces followed from frame to frame by the overlap of their boxes, so that a person is recognised once and not per frame."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from plugins.preprocess import l2_normalise
from zoo.jetson.decode import intersection_over_union
from zoo.pipeline.gallery import Match
from zoo.pipeline.recogniser import Face

__all__ = ['Track', 'Tracker']

_RECENT = 8  # looks in the mean: more add little to it, and old ones show another pose and light


@dataclass
class Track:
    """One person passing by.

    Attributes:
        number: from 1, never given twice.
        face: as last seen.
        missed: frames since then; returned: was out of sight since the last look, and may be somebody else.
        looks: how many there were; looked: frame of the last one; recent: embeddings of the last few.
        match: what the gallery says of their mean.
    """

    number: int
    face: Face
    missed: int = 0
    returned: bool = False
    looks: int = 0
    looked: int = -1
    recent: deque[np.ndarray] = field(default_factory=lambda: deque(maxlen=_RECENT), repr=False)
    match: Match | None = None

    def look(self, embedding: np.ndarray, frame: int) -> None:
        """Take another embedding, unit length ``(D,)``, into the mean."""
        self.recent.append(embedding)
        self.looks, self.looked, self.returned = self.looks + 1, frame, False

    @property
    def embedding(self) -> np.ndarray:
        """Mean of the recent looks, unit length ``(D,)``."""
        return l2_normalise(np.sum(self.recent, 0)[None])[0]

    def shows(self, embedding: np.ndarray, threshold: float) -> bool:
        """Whether another look is at the same person, by the cosine with the looks so far; the first one always is."""
        return not self.recent or float(self.embedding @ embedding) > threshold


class Tracker:
    """Greedy matching by intersection over union, best pairs first (Bochinski et al. 2017, "IOU tracker").

    Args:
        overlap: least intersection over union of the same face in consecutive frames.
        patience: frames for which a face may be missed before its track ends. When more than that are dropped at a time, a face
            of the last frame that was looked at may still go on in the next one, but counts as having been out of sight.
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
        most = self.patience + 1  # missed by a track that may still go on in this frame
        self._end(max(most, steps))  # however many were dropped, those of the last frame that was looked at may go on
        found: list[Track | None] = [None] * len(faces)
        for face, track in self._pairs(faces):
            if found[face] is None and track.missed:
                found[face] = track
                track.returned |= track.missed > min(steps, most)  # not in the last frame, or that is too long ago
                track.face, track.missed = faces[face], 0
        for index, track in enumerate(found):
            if track is None:
                found[index] = self._begin(faces[index])
        self._end(self.patience)
        return found

    def renew(self, track: Track) -> Track:
        """End a track and begin another one with its face: somebody else took the place."""
        self.tracks = [other for other in self.tracks if other is not track]
        return self._begin(track.face)

    def _begin(self, face: Face) -> Track:
        self._count += 1
        self.tracks.append(Track(self._count, face))
        return self.tracks[-1]

    def _end(self, patience: int) -> None:
        self.tracks = [track for track in self.tracks if track.missed <= patience]

    def _pairs(self, faces: tuple[Face, ...]) -> list[tuple[int, Track]]:
        """Overlapping faces and tracks, best first."""
        if not faces or not self.tracks:
            return []
        new, old = np.stack([face.box for face in faces]), np.stack([track.face.box for track in self.tracks])
        overlap = intersection_over_union(new, old)
        order = np.argsort(-overlap, axis=None, kind='stable')
        pairs = zip(*np.unravel_index(order, overlap.shape), strict=True)
        return [(int(f), self.tracks[t]) for f, t in pairs if overlap[f, t] >= self.overlap]
