"""IJB-B and IJB-C 1:1 verification of templates, with InsightFace's arithmetic, for any Embedder and in little memory.

The steps are those of ``arcface_torch/eval_ijbc.py`` and ``onnx_ijbc.py``: five-point alignment, embedding of the face plus
that of its mirror image (not normalised: the norm is a quality weight), times the detector's score; a template is the sum
over its media of the mean within the medium, L2-normalised; a pair's score is the dot product; TAR is read at the point of
the ROC curve that is nearest to the FAR. There all embeddings are held (1.9 GB for IJB-C) and pairs are gathered 100 000 at
a time; here embeddings go into their template's sum at once, and pairs are scored in blocks of one side's templates.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plugins.preprocess import FaceError, decode_image, l2_normalise
from zoo.evaluate.roc import roc_points, tar_nearest
from zoo.jetson.align import align
from zoo.progress import progress_bar
from zoo.runtime.embedder import Embedder, embed_batches

__all__ = ['FARS', 'IJBProtocol', 'IJBResult', 'TemplateSums', 'evaluate_ijb', 'load_protocol', 'score_pairs']

FARS = ('1e-6', '1e-5', '1e-4', '1e-3', '1e-2', '1e-1')
_TEXT = 1 << 24  # characters of the list of pairs that are read at once
_THREADS = 4  # that read and align
_BLOCK = 64  # templates of one side that are compared with all others at once


@dataclass(frozen=True)
class IJBProtocol:
    """The lists of an IJB release, in InsightFace's layout.

    Attributes:
        root: folder with ``loose_crop/`` and ``meta/``; target: ``ijbb`` or ``ijbc``.
        images: file names below ``loose_crop``, ``N``; landmarks: float32 ``(N, 5, 2)``; scores: of the detector, ``(N,)``.
        templates: distinct template numbers, ascending, ``T``.
        template: row of ``templates`` of each image, ``(N,)``; medium: number of its medium within all, ``(N,)``.
        pairs: rows of ``templates``, ``(P, 2)``; same: bool ``(P,)``.
    """

    root: Path
    target: str
    images: tuple[str, ...]
    landmarks: np.ndarray
    scores: np.ndarray
    templates: np.ndarray
    template: np.ndarray
    medium: np.ndarray
    pairs: np.ndarray
    same: np.ndarray


@dataclass(frozen=True)
class IJBResult:
    """TAR by FAR, and how much was compared. FARs below ``1 / impostors`` cannot be resolved."""

    tar: dict[str, float]
    images: int
    templates: int
    pairs: int
    genuine: int

    def to_dict(self) -> dict:
        """Flat mapping with keys ``tar@1e-6``, ..., ``images``, ``templates``, ``pairs``, ``genuine``."""
        return {f'tar@{far}': tar for far, tar in self.tar.items()} | {
            'images': self.images, 'templates': self.templates, 'pairs': self.pairs, 'genuine': self.genuine}


def load_protocol(root: str | os.PathLike, target: str = 'ijbc') -> IJBProtocol:
    """Read ``meta/<target>_name_5pts_score.txt``, ``_face_tid_mid.txt`` and ``_template_pair_label.txt``.

    Raises:
        FileNotFoundError: a list is missing.
        FaceError: a malformed line, lists that contradict each other, a pair of an unknown template.
    """
    root = Path(root)
    meta = root / 'meta'
    named, members = meta / f'{target}_name_5pts_score.txt', meta / f'{target}_face_tid_mid.txt'
    images, numbers = _read_table(named, 11, np.float32)
    again, belongs = _read_table(members, 2, np.int64)
    if images != again:
        at = next((i for i, (a, b) in enumerate(zip(images, again, strict=False)) if a != b), min(len(images), len(again)))
        raise FaceError(f'{named} ({len(images)} lines) and {members.name} ({len(again)} lines) name different images from '
                        f'line {at + 1} on; they must be in the same order')
    templates, template = np.unique(belongs[:, 0], return_inverse=True)
    _, medium = np.unique(belongs, axis=0, return_inverse=True)
    pairs, same = _read_pairs(meta / f'{target}_template_pair_label.txt', templates)
    return IJBProtocol(root, target, images, numbers[:, :10].reshape(-1, 5, 2), numbers[:, 10], templates, template.ravel(),
                       medium.ravel(), pairs, same)


def _read_table(path: Path, columns: int, kind: type) -> tuple[tuple[str, ...], np.ndarray]:
    """Lines of a name and ``columns`` numbers as names and an array ``(N, columns)``."""
    names, rows = [], []
    with open(path) as file, warnings.catch_warnings():
        warnings.simplefilter('error')  # NumPy stops at the first thing that is not a number, with just a warning
        for number, line in enumerate(file, 1):
            name, _, rest = line.partition(' ')
            try:
                rows.append(np.fromstring(rest, kind, sep=' ').reshape(columns))
            except (ValueError, DeprecationWarning):
                raise FaceError(f'{path}, line {number}: {line.strip()!r}: expected a name and {columns} numbers') from None
            names.append(name)
    if not rows:
        raise FaceError(f'{path}: empty')
    return tuple(names), np.stack(rows)


def _read_pairs(path: Path, templates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """15.7 million lines of IJB-C: NumPy's parser, a part of the file at a time."""
    pairs, same, line = [], [], 1
    with open(path) as file, warnings.catch_warnings():
        warnings.simplefilter('error')
        while text := file.read(_TEXT) + file.readline():
            try:
                table = np.fromstring(text, np.int64, sep=' ').reshape(-1, 3)
            except (ValueError, DeprecationWarning):
                raise FaceError(f'{path}: from line {line} on, a line is not "template template 0|1"; the file is cut '
                                'short, or not a list of pairs') from None
            rows = np.searchsorted(templates, table[:, :2]).clip(max=len(templates) - 1)
            wrong = np.flatnonzero((templates[rows] != table[:, :2]).any(1) | ~np.isin(table[:, 2], (0, 1)))
            if wrong.size:
                raise FaceError(f'{path}, line {line + wrong[0]}: {table[wrong[0]].tolist()}: a template without images, or a '
                                'label that is neither 0 nor 1')
            pairs.append(rows.astype(np.int32))
            same.append(table[:, 2].astype(bool))
            line += len(table)
    if not pairs:
        raise FaceError(f'{path}: empty')
    return np.concatenate(pairs), np.concatenate(same)


class TemplateSums:
    """Template features under construction: the sum over media of the mean within the medium."""

    def __init__(self, protocol: IJBProtocol) -> None:
        self._template = protocol.template
        self._weight = protocol.scores.astype(np.float64) / np.bincount(protocol.medium)[protocol.medium]
        self._sums: np.ndarray | None = None
        self._count = len(protocol.templates)
        self._done = 0

    def add(self, embeddings: np.ndarray) -> None:
        """The next images' embeddings ``(n, D)``, plain and mirrored summed, in the order of the protocol."""
        if self._sums is None:
            self._sums = np.zeros((self._count, embeddings.shape[1]))
        rows = slice(self._done, self._done + len(embeddings))
        np.add.at(self._sums, self._template[rows], embeddings * self._weight[rows, None])
        self._done += len(embeddings)

    def features(self) -> np.ndarray:
        """L2-normalised template features, float64 ``(T, D)``."""
        return l2_normalise(self._sums)


def score_pairs(features: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Dot products float64 ``(P,)`` of pairs ``(P, 2)`` of rows of ``features`` ``(T, D)``.

    Templates recur in thousands of pairs each, so a block of one side is multiplied with all of the other side: less than half
    the memory traffic of gathering both sides pair by pair.
    """
    order = np.argsort(pairs[:, 0], kind='stable')
    first, second = pairs[order, 0], pairs[order, 1]
    distinct, begin = np.unique(first, return_index=True)
    scores = np.empty(len(pairs))
    for at in range(0, len(distinct), _BLOCK):
        rows = distinct[at:at + _BLOCK]
        end = begin[at + _BLOCK] if at + _BLOCK < len(begin) else len(first)
        span = slice(begin[at], end)
        used, column = np.unique(second[span], return_inverse=True)
        similarity = features[rows] @ features[used].T
        scores[order[span]] = similarity[np.searchsorted(rows, first[span]), column]
    return scores


def evaluate_ijb(embedder: Embedder, protocol: IJBProtocol, batch_size: int = 64, flip: bool = True, progress: bool = False
                 ) -> tuple[IJBResult, np.ndarray]:
    """Measure an embedder; InsightFace's N1, D1, F1 settings (``flip=False``: F0).

    Returns:
        The result, and the scores of all pairs, float64 ``(P,)``.

    Raises:
        FaceError: an image is missing or damaged, landmarks do not make a face, or embeddings are not finite.
        ValueError: only genuine or only impostor pairs.
    """
    sums = TemplateSums(protocol)
    with progress_bar(len(protocol.images), 'faces', protocol.target, enabled=progress) as bar:
        for embeddings, _ in embed_batches(embedder, _crops(protocol, embedder.preprocess.input_size, batch_size), flip):
            if not np.isfinite(embeddings).all():
                raise FaceError(f'{embedder.name}: embeddings are not finite')
            sums.add(embeddings)
            bar.update(len(embeddings))
    scores = score_pairs(sums.features(), protocol.pairs)
    points = roc_points(scores, protocol.same)
    tar = {far: tar_nearest(*points, float(far)) for far in FARS}
    return IJBResult(tar, len(protocol.images), len(protocol.templates), len(scores), int(protocol.same.sum())), scores


def _crops(protocol: IJBProtocol, size: int, batch_size: int) -> Iterator[np.ndarray]:
    """Batches of aligned faces of ``size`` pixels; the next batch is read while the embedder works on this one."""
    def crop(index: int) -> np.ndarray:
        path = protocol.root / 'loose_crop' / protocol.images[index]
        if not path.is_file():
            raise FaceError(f'{path}: no such image, but {protocol.target}_name_5pts_score.txt, line {index + 1} names it')
        try:
            return align(decode_image(path.read_bytes(), str(path)), protocol.landmarks[index], size)[0]
        except FaceError:
            raise
        except ValueError as error:
            raise FaceError(f'{path}: {error}') from None

    batches = np.array_split(np.arange(len(protocol.images)), -(-len(protocol.images) // batch_size))
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting = [pool.submit(crop, int(i)) for i in batches[0]]
        for following in [*batches[1:], ()]:
            current, waiting = waiting, [pool.submit(crop, int(i)) for i in following]
            yield np.stack([future.result() for future in current])
