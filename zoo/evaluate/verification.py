"""1:1 verification: 10-fold accuracy, TAR at FAR and thresholds, with InsightFace's arithmetic.

The numbers equal those of ``arcface_torch/eval/verification.py`` on the same embeddings: plain and mirrored embeddings are
summed and L2-normalised, the squared distance is compared with thresholds 0, 0.01, ... 3.99, and each fold uses the
threshold that is best on the other nine. Unlike there, faces are streamed in batches, and an image that occurs in several
pairs is embedded once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from plugins.data.sources import FaceSource, MemoryFaces, SubsetFaces, TreeFaces, open_faces
from plugins.data.verification import FOLDS, read_bin, read_pairs
from plugins.preprocess import FaceError
from zoo.evaluate.embed import embed_faces
from zoo.runtime.embedder import Embedder

__all__ = ['FARS', 'VerificationResult', 'VerificationSet', 'correct_decisions', 'evaluate_pairs', 'load_verification_set',
           'threshold_at', 'verify']

FARS = ('1e-3', '1e-4')


@dataclass(frozen=True)
class VerificationSet:
    """Distinct faces and the pairs over them.

    Attributes:
        faces: the images.
        pairs: int ``(P, 2)`` indices into ``faces``.
        same: bool ``(P,)``: both images show one person.
    """

    name: str
    faces: FaceSource
    pairs: np.ndarray
    same: np.ndarray


@dataclass(frozen=True)
class VerificationResult:
    """What :func:`verify` measures.

    Attributes:
        accuracy: 10-fold mean, a fraction; ``std`` over the folds.
        tar: TAR over all pairs by FAR (``'1e-3'``), at the loosest threshold whose FAR does not exceed it.
        threshold: that threshold as cosine similarity; accept when the similarity is greater.
        xnorm: mean norm of the single embeddings before normalisation.
        pairs: number of pairs; ``impostors`` of them of different persons. A FAR below ``1 / impostors`` cannot be
            resolved: it then means no false accept at all.
        fold_thresholds: of each fold, the squared distance below which a pair counts as one person: best on the other folds.
        correct: bool ``(P,)``: the pair was decided rightly at its fold's threshold. Of two embedders on one set it tells how
            sure their difference is.
        at_reference: accuracy at the fold thresholds of another result, when :func:`verify` was given one.
    """

    accuracy: float
    std: float
    tar: dict[str, float]
    threshold: dict[str, float]
    xnorm: float
    pairs: int
    impostors: int
    fold_thresholds: tuple[float, ...]
    correct: np.ndarray = field(repr=False, compare=False)
    at_reference: float | None = None

    def to_dict(self) -> dict:
        """Flat mapping with keys ``accuracy``, ``std``, ``tar@1e-3``, ``threshold@1e-3``, ``xnorm``, ``pairs``, ..., and
        ``accuracy@reference`` when it was measured."""
        flat = {'accuracy': self.accuracy, 'std': self.std}
        if self.at_reference is not None:
            flat['accuracy@reference'] = self.at_reference
        for far in self.tar:
            flat |= {f'tar@{far}': self.tar[far], f'threshold@{far}': self.threshold[far]}
        return flat | {'xnorm': self.xnorm, 'pairs': self.pairs, 'impostors': self.impostors}


def load_verification_set(path: str | os.PathLike, pairs: str | os.PathLike | None = None) -> VerificationSet:
    """A verification set: InsightFace's ``.bin``, or a folder or zip of faces with LFW's ``pairs.txt`` in it.

    Args:
        path: the ``.bin``, folder, zip, or folder in a zip.
        pairs: where the pairs are listed, when that is not ``pairs.txt`` right below ``path``.

    Raises:
        FileNotFoundError: no such set.
        FaceError, BinError: damaged, the pairs name an image that is not there, or pairs beside a .bin, which has its own.
    """
    path = Path(path)
    if path.suffix == '.bin':
        if pairs is not None:
            raise FaceError(f'{path} has its own pairs; leave out {pairs} (--pairs)')
        images, same = read_bin(path)
        number: dict[bytes, int] = {}
        index = [number.setdefault(image, len(number)) for image in images]
        return VerificationSet(path.stem, MemoryFaces(list(number), str(path)), np.array(index).reshape(-1, 2), same)
    source = open_faces(path)
    if not isinstance(source, TreeFaces):
        raise FaceError(f'{path}: a verification set is a .bin, or a folder or zip of images with pairs.txt')
    listed = read_pairs(_pairs_text(source, pairs), str(pairs or f'{path}/pairs.txt'))
    stems = ['/'.join(Path(name).with_suffix('').parts[-2:]) for name in source.names]
    number = {stem: i for i, stem in enumerate(stems)}
    try:
        index = np.array([(number[a], number[b]) for a, b, _ in listed])
    except KeyError as error:
        raise FaceError(f'{path}: {pairs or "pairs.txt"} names {error}, which is not among its {len(source)} images') from None
    used, index = np.unique(index, return_inverse=True)
    _check_unique(source, stems, number, set(used.tolist()))
    same = np.array([same for _, _, same in listed])
    return VerificationSet(path.stem, SubsetFaces(source, used), index.reshape(-1, 2), same)


def _check_unique(source: TreeFaces, stems: list[str], number: dict[str, int], used: set[int]) -> None:
    for i, stem in enumerate(stems):
        if number[stem] != i and number[stem] in used:
            raise FaceError(f'{source.root}: {source.names[i]} and {source.names[number[stem]]} are both {stem} in pairs.txt; '
                            'keep only one of them')


def _pairs_text(source: TreeFaces, pairs: str | os.PathLike | None) -> str:
    if pairs is not None:
        data = Path(pairs).read_bytes()
    else:
        try:
            data = source.read_file('pairs.txt')
        except (FileNotFoundError, KeyError):
            raise FileNotFoundError(f'{source.root}: no pairs.txt in it; name the file with --pairs') from None
    try:
        return data.decode('utf-8-sig')  # with the mark that some editors begin a file with
    except UnicodeDecodeError as error:
        raise FaceError(f'{pairs or f"{source.root}/pairs.txt"}: not UTF-8 ({error.reason} at byte {error.start}); save it as '
                        'UTF-8') from None


def verify(embedder: Embedder, data: VerificationSet | str | os.PathLike, flip: bool = True, batch_size: int = 64,
           progress: bool = False, reference: VerificationResult | None = None) -> VerificationResult:
    """Measure an embedder on a verification set.

    Args:
        flip: sum the embeddings of the face and its mirror image.
        reference: another embedder's result on this set; the accuracy at its thresholds is measured, too.

    Raises:
        FaceError: a face is damaged or of another size, the embedder gives all faces the same embedding or one that is not
            finite, or there are too few pairs; see :func:`evaluate_pairs`.
    """
    if not isinstance(data, VerificationSet):
        data = load_verification_set(data)
    embeddings, norms = embed_faces(embedder, data.faces, flip, batch_size, data.name, progress)
    first, second = embeddings[data.pairs[:, 0]], embeddings[data.pairs[:, 1]]
    return evaluate_pairs(first, second, data.same, xnorm=float(norms[data.pairs].mean()), reference=reference)


def evaluate_pairs(first: np.ndarray, second: np.ndarray, same: np.ndarray, fars=FARS, xnorm: float = float('nan'),
                   reference: VerificationResult | None = None) -> VerificationResult:
    """Accuracy, TAR and thresholds of ``P`` pairs of L2-normalised embeddings ``(P, D)``.

    Raises:
        FaceError: fewer pairs than folds, or only genuine or only impostor pairs.
    """
    same = np.asarray(same, bool)
    if len(same) < FOLDS or same.all() or not same.any():
        raise FaceError(f'{len(same)} pairs, {same.sum()} of them of one person; at least {FOLDS} are needed, of both kinds')
    distance = np.square(first - second).sum(1)
    parts = np.array_split(np.arange(len(same)), FOLDS)  # contiguous, as scikit-learn's KFold
    fold_thresholds = _best_thresholds(distance, same, parts)
    correct = _decide(fold_thresholds, distance, parts) == same
    accuracy = _by_fold(correct, parts)
    at_reference = (float(_by_fold(_decide(reference.fold_thresholds, distance, parts) == same, parts).mean())
                    if reference else None)
    similarity = 1 - distance / 2
    tar, threshold = {}, {}
    for far in fars:
        threshold[far] = threshold_at(similarity[~same], float(far))
        tar[far] = float((similarity[same] > threshold[far]).mean())
    return VerificationResult(float(accuracy.mean()), float(accuracy.std()), tar, threshold, xnorm, len(same),
                              int((~same).sum()), fold_thresholds, correct, at_reference)


def threshold_at(impostor_scores: np.ndarray, far: float) -> float:
    """Smallest score ``t`` such that accepting ``score > t`` accepts at most a fraction ``far`` of the impostors."""
    allowed = int(far * len(impostor_scores) + 1e-9)
    return float(np.partition(impostor_scores, -allowed - 1)[-allowed - 1])


def _best_thresholds(distance: np.ndarray, same: np.ndarray, parts: list[np.ndarray]) -> tuple[float, ...]:
    """Of each fold, the first threshold that is best on the others."""
    thresholds = np.arange(0, 4, 0.01)
    correct = np.stack([correct_decisions(distance[part], same[part], thresholds) for part in parts])
    return tuple(thresholds[(correct.sum(0) - correct).argmax(1)].tolist())


def _decide(chosen: tuple[float, ...], distance: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    """Bool ``(P,)``: taken for one person at the threshold of its fold."""
    return np.concatenate([distance[part] < threshold for threshold, part in zip(chosen, parts, strict=True)])


def _by_fold(correct: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    return np.array([correct[part].mean() for part in parts])


def correct_decisions(distance: np.ndarray, same: np.ndarray, thresholds: np.ndarray | float) -> np.ndarray:
    """How many decisions are right at each threshold ``(T,)``, int ``(T,)``, when ``distance < threshold`` accepts.

    Args:
        distance: of the pairs ``(P,)``; same: bool ``(P,)``.
    """
    genuine = np.searchsorted(np.sort(distance[same]), thresholds)
    impostor = np.searchsorted(np.sort(distance[~same]), thresholds)
    return genuine + (~same).sum() - impostor
