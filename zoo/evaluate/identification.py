"""1:N identification: who of a gallery is it (rank-k), and is it anyone of the gallery at all (DIR at FAR).

A person's score is that of the best of the person's enrolled images. Definitions: rank-k and detection and identification
rate (DIR) as in the NIST reports and Phillips et al.; DIR at FAR is the fraction of known probes whose own person has the
highest score and whose score passes the threshold at which a fraction FAR of the unknown probes passes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plugins.data.sources import SubsetFaces, TreeFaces
from plugins.preprocess import FaceError
from zoo.evaluate.embed import embed_faces
from zoo.evaluate.lowres import FACTORS, DegradedFaces
from zoo.evaluate.verification import threshold_at
from zoo.runtime.embedder import Embedder

__all__ = ['FARS', 'RANKS', 'GalleryProtocol', 'IdentificationResult', 'draw_gallery', 'evaluate_identification', 'identify',
           'identify_lowres']

RANKS = (1, 5, 10)
FARS = ('1e-2', '1e-1')
_CHUNK = 4096  # probes that are compared with the gallery at once


@dataclass(frozen=True)
class GalleryProtocol:
    """A gallery cut from a folder of persons. The defaults are the self-built test of paper 004 (section 4).

    Attributes:
        persons: enrolled persons; enrol: images of each in the gallery; probes: further images of each that are searched.
        unknown: other persons, whose ``enrol + probes`` images are searched too and must not be found.
        seed: of the draw of persons and images; None takes persons and images in the order of their names.

    Raises:
        ValueError: a number below 1 (``unknown``: below 0).
    """

    persons: int = 30
    enrol: int = 2
    probes: int = 10
    unknown: int = 0
    seed: int | None = 0

    def __post_init__(self) -> None:
        for key in ('persons', 'enrol', 'probes'):
            if getattr(self, key) < 1:
                raise ValueError(f'{key}={getattr(self, key)}: must be at least 1')
        if self.unknown < 0:
            raise ValueError(f'unknown={self.unknown}: must be at least 0')


@dataclass(frozen=True)
class IdentificationResult:
    """What :func:`evaluate_identification` measures.

    Attributes:
        rank: fraction of known probes whose own person is among the ``k`` best, by ``k``.
        dir: DIR by FAR; threshold: cosine similarity that belongs to it. Empty without unknown probes.
        gallery: enrolled images; persons: enrolled persons; probes, unknown: searched images of known and of unknown persons.
    """

    rank: dict[int, float]
    dir: dict[str, float]
    threshold: dict[str, float]
    gallery: int
    persons: int
    probes: int
    unknown: int

    def to_dict(self) -> dict:
        """Flat mapping with keys ``rank-1``, ``dir@1e-2``, ``threshold@1e-2``, ``gallery``, ..."""
        flat: dict = {f'rank-{k}': value for k, value in self.rank.items()}
        for far in self.dir:
            flat |= {f'dir@{far}': self.dir[far], f'threshold@{far}': self.threshold[far]}
        return flat | {'gallery': self.gallery, 'persons': self.persons, 'probes': self.probes, 'unknown': self.unknown}


def draw_gallery(source: TreeFaces, protocol: GalleryProtocol) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the enrolled and of the searched images of ``source``; unknown persons' images are among the latter.

    Raises:
        FaceError: too few persons with enough images.
    """
    needed = protocol.enrol + protocol.probes
    members = [np.flatnonzero(source.labels == person) for person in range(source.num_classes)]
    enough = [rows for rows in members if len(rows) >= needed]
    wanted = protocol.persons + protocol.unknown
    if len(enough) < wanted:
        raise FaceError(f'{source.root}: {len(enough)} of {source.num_classes} persons have {needed} images or more, but the '
                        f'protocol needs {wanted} (persons + unknown); ask for fewer, or give more images')
    if protocol.seed is not None:
        rng = np.random.default_rng(protocol.seed)
        enough = [rng.permutation(enough[person]) for person in rng.permutation(len(enough))[:wanted]]
    known, unknown = enough[:protocol.persons], enough[protocol.persons:wanted]
    enrolled = np.concatenate([rows[:protocol.enrol] for rows in known])
    searched = [rows[protocol.enrol:needed] for rows in known] + [rows[:needed] for rows in unknown]
    return enrolled, np.concatenate(searched)


def identify(embedder: Embedder, source: TreeFaces, protocol: GalleryProtocol | None = None, flip: bool = True,
             progress: bool = False, factor: int = 1) -> IdentificationResult:
    """Measure an embedder on a folder or zip of persons.

    Args:
        factor: of the degradation of the searched images (:func:`plugins.data.degrade.degrade`, sigma 1); 1 leaves them as
            they are. The enrolled ones are never degraded.

    Raises:
        FaceError: too few persons or images, or a damaged image.
    """
    enrolled, searched = draw_gallery(source, protocol or GalleryProtocol())
    rows = np.concatenate([enrolled, searched + (len(source) if factor > 1 else 0)])
    faces = SubsetFaces(DegradedFaces(source, factor, 1.0), rows)
    embeddings, _ = embed_faces(embedder, faces, flip, label=f'identify x{factor}', progress=progress)
    gallery, probes = embeddings[:len(enrolled)], embeddings[len(enrolled):]
    return evaluate_identification(probes, source.labels[searched], gallery, source.labels[enrolled])


def identify_lowres(embedder: Embedder, source: TreeFaces, protocol: GalleryProtocol | None = None,
                    factors: tuple[int, ...] = FACTORS, flip: bool = True, progress: bool = False
                    ) -> dict[int, IdentificationResult]:
    """Results by degradation factor, of the same gallery and probes; thresholds are those of the unknown at that factor."""
    return {factor: identify(embedder, source, protocol, flip, progress, factor) for factor in factors}


def evaluate_identification(probes: np.ndarray, probe_ids: np.ndarray, gallery: np.ndarray, gallery_ids: np.ndarray,
                            ranks=RANKS, fars=FARS) -> IdentificationResult:
    """Rank-k and DIR of L2-normalised embeddings ``(P, D)`` searched among ``(G, D)``.

    Probes whose identity is not in the gallery are the unknown ones. Equal scores count against the own person.

    Raises:
        FaceError: no probe shows a person of the gallery.
    """
    probe_ids, gallery_ids = np.asarray(probe_ids), np.asarray(gallery_ids)
    order = np.argsort(gallery_ids, kind='stable')
    gallery, (persons, begin) = gallery[order], np.unique(gallery_ids[order], return_index=True)
    known = np.isin(probe_ids, persons)
    if not known.any():
        raise FaceError('no probe shows a person of the gallery')
    own, place, best = (np.empty(len(probes)) for _ in range(3))
    for at in range(0, len(probes), _CHUNK):
        rows = slice(at, at + _CHUNK)
        scores = np.maximum.reduceat(probes[rows] @ gallery.T, begin, axis=1)  # (n, persons)
        column = np.searchsorted(persons, probe_ids[rows]).clip(max=len(persons) - 1)
        own[rows] = scores[np.arange(len(scores)), column]
        place[rows] = (scores >= own[rows, None]).sum(1)
        best[rows] = scores.max(1)
    first = known & (place == 1)
    threshold = {far: threshold_at(best[~known], float(far)) for far in fars} if (~known).any() else {}
    found = {far: float((first & (own > limit))[known].mean()) for far, limit in threshold.items()}
    return IdentificationResult({k: float((place[known] <= k).mean()) for k in ranks if k <= len(persons)}, found, threshold,
                                len(gallery), len(persons), int(known.sum()), int((~known).sum()))
