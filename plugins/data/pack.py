"""Making InsightFace's training and verification files from folders and archives: ``train.rec/.idx/property`` and ``.bin``."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plugins.data.recordio import RecordHeader, RecordWriter, pack
from plugins.data.sources import TreeFaces
from plugins.data.verification import FOLDS, write_bin
from plugins.files import write_atomic
from plugins.preprocess import FaceError, decode_image

__all__ = ['Face', 'draw_pairs', 'gather', 'keep_identities', 'pack_records', 'pack_verification', 'split_identities']


@dataclass(frozen=True)
class Face:
    """Where one image lies and whose it is (``person`` None: unknown)."""

    source: TreeFaces
    index: int
    person: str | None

    def read(self) -> bytes:
        return self.source.read(self.index)[0]


def gather(sources: Iterable[TreeFaces], unlabelled: Iterable[TreeFaces] = (), min_quality: float | None = None
           ) -> list[Face]:
    """All faces of the sources; folders of one name in different sources are one person.

    Args:
        unlabelled: sources whose folder names mean nothing.
        min_quality: images that a source's own ``quality.csv`` (``file,score``) rates lower count as of unknown person:
            their label is probably wrong, but a distillation can still learn from them. Images that no file rates stay.

    Raises:
        FaceError: ``min_quality`` is given, and no source has a ``quality.csv``, a line of one is wrong, or one rates none of
            its source's images.
    """
    faces, sources = [], list(sources)
    ratings = [_read_quality(source) if min_quality is not None else {} for source in sources]
    if min_quality is not None and not any(ratings):
        raise FaceError(f'{", ".join(str(source.root) for source in sources)}: no quality.csv (file,score) there; '
                        '--min-quality needs one')
    for source, quality in zip(sources, ratings, strict=True):
        for index, name in enumerate(source.names):
            good = name not in quality or quality[name] >= min_quality
            person = source.classes[source.labels[index]] if good and source.labels[index] >= 0 else None
            faces.append(Face(source, index, person))
    for source in unlabelled:
        faces += [Face(source, index, None) for index in range(len(source))]
    return faces


def _read_quality(source: TreeFaces) -> dict[str, float]:
    try:
        rows = csv.reader(io.StringIO(source.read_file('quality.csv').decode()))
    except (FileNotFoundError, KeyError):
        return {}
    next(rows, None)
    try:
        quality = {row[0]: float(row[1]) for row in rows}
    except (IndexError, ValueError) as error:
        raise FaceError(f'{source.root}/quality.csv, line {rows.line_num}: {error}; write file,score') from None
    if quality and not quality.keys() & set(source.names):
        raise FaceError(f'{source.root}/quality.csv rates {next(iter(quality))!r} and others, but none of the images there; '
                        f'write names relative to that folder, such as {source.names[0]!r}')
    return quality


def split_identities(faces: list[Face], holdout: int, seed: int = 0) -> tuple[list[Face], list[Face]]:
    """Training faces, and all faces of ``holdout`` persons (with at least two images each) drawn at random.

    Raises:
        FaceError: there are not that many such persons.
    """
    counts = Counter(face.person for face in faces if face.person is not None)
    eligible = sorted(person for person, count in counts.items() if count > 1)
    if holdout >= len(counts):
        raise FaceError(f'cannot hold out {holdout} of {len(counts)} identities; some must remain for training')
    if holdout > len(eligible):
        raise FaceError(f'cannot hold out {holdout} identities: only {len(eligible)} have two images or more')
    held = set(np.random.default_rng(seed).choice(eligible, holdout, replace=False).tolist())
    # an image of unknown person might show a held-out one: it is dropped when it lay in that person's folder
    train = [face for face in faces if _folder(face) not in held]
    return train, [face for face in faces if face.person in held]


def _folder(face: Face) -> str | None:
    label = face.source.labels[face.index]
    return face.source.classes[label] if label >= 0 else face.person


def keep_identities(faces: list[Face], count: int) -> list[Face]:
    """The faces of the ``count`` persons with the most images (equal ones by name): a small set for quick comparisons.

    Raises:
        FaceError: there are not that many persons.
    """
    counts = Counter(face.person for face in faces if face.person is not None)
    if count > len(counts):
        raise FaceError(f'cannot keep {count} identities: there are {len(counts)}')
    kept = {person for person, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:count]}
    return [face for face in faces if face.person in kept]


def draw_pairs(faces: list[Face], pairs: int, seed: int = 0) -> list[tuple[Face, Face, bool]]:
    """Random genuine and impostor pairs, half each, alternating by fold as LFW's official list does.

    Args:
        pairs: how many, rounded down to folds of one size.

    Raises:
        FaceError: fewer distinct genuine pairs than asked for; the message says how many there may be.
    """
    rng = np.random.default_rng(seed)
    persons: dict[str, list[Face]] = {}
    for face in faces:
        persons.setdefault(face.person, []).append(face)
    genuine = [(a, b) for group in persons.values() for i, a in enumerate(group) for b in group[i + 1:]]
    per_fold, most = pairs // (2 * FOLDS), len(genuine) // FOLDS
    if per_fold > most or len(persons) < 2 or not per_fold:
        known = f'{len(persons)} identities give {len(genuine)} pairs of one person'
        if len(persons) < 2 or not most:
            raise FaceError(f'{known}; at least two identities and {FOLDS} such pairs are needed: hold out more identities '
                            '(--holdout), or give more pictures of each')
        raise FaceError(f'{known}, and {pairs} pairs need {pairs // 2}; take --pairs from {2 * FOLDS} to '
                        f'{2 * FOLDS * most}, or hold out more identities (--holdout)')
    chosen = rng.permutation(len(genuine))[:per_fold * FOLDS]
    names = sorted(persons)
    drawn = []
    for fold in range(FOLDS):
        drawn += [(*genuine[i], True) for i in chosen[fold * per_fold:(fold + 1) * per_fold]]
        for _ in range(per_fold):
            one, two = rng.choice(len(names), 2, replace=False)
            first, second = persons[names[one]], persons[names[two]]
            drawn.append((first[rng.integers(len(first))], second[rng.integers(len(second))], False))
    return drawn


def pack_verification(path: str | os.PathLike, pairs: list[tuple[Face, Face, bool]]) -> None:
    """Write pairs as an InsightFace ``.bin``."""
    write_bin(path, [face.read() for a, b, _ in pairs for face in (a, b)], [same for _, _, same in pairs])


def pack_records(out: str | os.PathLike, faces: list[Face], progress: Callable[[int], object] | None = None
                 ) -> tuple[int, int]:
    """Write ``train.rec``, ``train.idx`` and ``property`` in InsightFace's layout, identities contiguous and in order.

    Images of unknown person come last with label -1: facezoo's trainer distils from them; InsightFace's trainer cannot
    read them.

    Returns:
        Number of images and of identities.

    Raises:
        FaceError: no images at all, one that does not decode, or one of another size than the first.
    """
    known = sorted((face for face in faces if face.person is not None), key=lambda face: _natural(face.person))
    unknown = [face for face in faces if face.person is None]
    persons = {person: i for i, person in enumerate(dict.fromkeys(face.person for face in known))}
    if not known and not unknown:
        raise FaceError(f'{out}: no images to pack')
    count = len(known) + len(unknown)
    spans: dict[str, list[int]] = {}
    size = None
    with RecordWriter(Path(out) / 'train.rec') as writer:
        writer.write(0, pack(RecordHeader((float(count + 1), float(count + 1 + len(persons)))), b''))
        for key, face in enumerate(known + unknown, 1):
            data = face.read()
            name = face.source.name(face.index)
            found = decode_image(data, name).shape[:2]
            size = size or found
            if found != size:
                raise FaceError(f'{name}: {found[1]}x{found[0]} pixels, the images before it have {size[1]}x{size[0]}; align '
                                'all to one size (`facezoo data align`)')
            label = persons[face.person] if face.person is not None else -1
            writer.write(key, pack(RecordHeader(float(label), key), data))
            if label >= 0:
                spans.setdefault(face.person, [key, key + 1])[1] = key + 1
            if progress:
                progress(1)
        for offset, span in enumerate(spans.values()):
            writer.write(count + 1 + offset, pack(RecordHeader(tuple(map(float, span)), count + 1 + offset), b''))
    write_atomic(Path(out) / 'property', f'{len(persons)},{size[0]},{size[1]}\n')
    return count, len(persons)


def _natural(name: str) -> tuple:
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)
