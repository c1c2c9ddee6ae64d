"""Annotated pictures to measure detectors on, in the formats in which they are distributed.

WIDER FACE (Yang et al., CVPR 2016): ``wider_face_val.mat`` with ``wider_easy_val.mat``, ``wider_medium_val.mat`` and
``wider_hard_val.mat`` beside it, as the official evaluation has them in ``eval_tools/ground_truth``; or a
``wider_face_val_bbx_gt.txt`` of ``wider_face_split``, which does not know the three subsets. FDDB: ``FDDB-folds`` with its
``FDDB-fold-01-ellipseList.txt``. RetinaFace's and facezoo's own ``label.txt``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from plugins.data.pictures import read_labels
from plugins.extras import require
from plugins.faces import Faces
from plugins.files import read_names
from plugins.preprocess import FaceError
from zoo.evaluate.fddb import ellipse_boxes

__all__ = ['DetectionSet', 'open_detection_set']

WIDER_SUBSETS = ('easy', 'medium', 'hard')
WIDER_FIELDS = ('x', 'y', 'width', 'height', 'blur', 'expression', 'illumination', 'invalid', 'occlusion', 'pose')
ELLIPSE_FIELDS = ('major_axis_radius', 'minor_axis_radius', 'angle', 'center_x', 'center_y', '1')


@dataclass(frozen=True)
class DetectionSet:
    """Annotated pictures.

    Attributes:
        name: what the annotations are, for reports.
        faces: by picture, whose name is its path below the folder of pictures.
        subsets: by subset and picture, which of the faces count, bool ``(F,)``; pictures may be left out. Faces that do not
            count are neither to be found nor false alarms.
        ellipses: FDDB's annotations by picture, float64 ``(F, 5)``; see :func:`zoo.evaluate.fddb.ellipse_boxes`.
    """

    name: str
    faces: dict[str, Faces]
    subsets: dict[str, dict[str, np.ndarray]]
    ellipses: dict[str, np.ndarray] = field(default_factory=dict)


def open_detection_set(path: str | os.PathLike) -> DetectionSet:
    """Read annotations: a file, or the folder that holds them; the names of the files say what they are.

    SciPy's reader of ``.mat`` files can crash the process on altered ones: take them from the official download.

    Raises:
        FileNotFoundError: nothing is there.
        FaceError: no known format, or something wrong in a file; the message names file, line and remedy.
        MissingExtra: ``.mat`` files without SciPy.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'{path}: no such file or folder of annotations')
    for pattern, reader in _READERS.items():
        files = sorted(path.glob(pattern)) if path.is_dir() else [path] if fnmatch(path.name, pattern) else []
        if files:
            return _checked(path, reader(files))
    raise FaceError(f'{path}: no annotations that facezoo reads ({", ".join(_READERS)})')


def _checked(path: Path, data: DetectionSet) -> DetectionSet:
    """What would stop the evaluation is said now, not after an hour of detection."""
    for subset, masks in data.subsets.items():
        if not any(mask.any() for mask in masks.values()):
            raise FaceError(f'{path}: no face counts in the subset {subset!r}, so average precision is undefined; is the '
                            'file whole?')
    if data.ellipses:
        require('scipy.optimize', 'bench')
    return data


def _one(files: list[Path]) -> Path:
    if len(files) > 1:
        raise FaceError(f'{files[0].parent}: has {", ".join(f.name for f in files)}; name one of these files')
    return files[0]


def _boxed(boxes: np.ndarray) -> Faces:
    """Faces of boxes x1, y1, x2, y2 without landmarks."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    return Faces(boxes, np.full((len(boxes), 5, 2), np.nan, np.float32), np.ones(len(boxes), np.float32))


def _with_sides(rows: np.ndarray) -> Faces:
    """Faces of boxes x, y, width, height; as in the official evaluation x2 is x + width."""
    rows = np.asarray(rows, np.float64).reshape(-1, 4)
    return _boxed(np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], 1))


# --- blocks of a name, a count and so many rows: WIDER's lists and FDDB's folds

def _read_blocks(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """Name and rows float64 ``(count, len(fields))`` of every block; WIDER puts a row of zeros where the count is 0."""
    lines = [line.strip() for line in read_names(path).splitlines()]
    at = 0
    while at < len(lines):
        if not lines[at]:
            at += 1
            continue
        name, count = lines[at], _read_count(path, lines, at + 1)
        rows = [_read_row(path, lines, line, fields, name) for line in range(at + 2, at + 2 + count)]
        at += 2 + count
        if not count and at < len(lines) and lines[at] and set(lines[at].split()) == {'0'}:
            at += 1
        yield name, np.array(rows, np.float64).reshape(-1, len(fields))


def _read_count(path: Path, lines: list[str], at: int) -> int:
    if at < len(lines) and lines[at].isdecimal():
        return int(lines[at])
    found = repr(lines[at]) if at < len(lines) else 'the end of the file'
    raise FaceError(f'{path}, line {at + 1}: expected the number of faces of {lines[at - 1]!r}, found {found}; the file is '
                    'cut off, or the block before it has more or fewer rows than it says')


def _read_row(path: Path, lines: list[str], at: int, fields: tuple[str, ...], name: str) -> list[float]:
    words = lines[at].split() if at < len(lines) else []
    try:
        values = [float(word) for word in words[:len(fields)]]
    except ValueError:
        values = []
    if len(values) < len(fields) or not np.isfinite(values).all():
        found = repr(lines[at]) if at < len(lines) else 'the end of the file'
        raise FaceError(f'{path}, line {at + 1}: expected a face of {name!r} ({" ".join(fields)}), found {found}')
    return values


def _read_wider_list(files: list[Path]) -> DetectionSet:
    """``wider_face_val_bbx_gt.txt``: all faces that are not flagged invalid and have a size count."""
    path, faces, counts = _one(files), {}, {}
    for name, rows in _read_blocks(path, WIDER_FIELDS):
        _once(path, name, faces)
        faces[name] = _with_sides(rows[:, :4])
        counts[name] = (rows[:, WIDER_FIELDS.index('invalid')] == 0) & (rows[:, 2:4] > 0).all(1)
    return DetectionSet('WIDER FACE, faces not flagged invalid', faces, {'valid': counts})


def _read_fddb(files: list[Path]) -> DetectionSet:
    """All folds that are there: each, and ``all`` of them."""
    ellipses: dict[str, np.ndarray] = {}
    subsets: dict[str, dict[str, np.ndarray]] = {'all': {}}
    for path in files:
        fold = subsets.setdefault(path.name.removesuffix('-ellipseList.txt'), {})
        for name, rows in _read_blocks(path, ELLIPSE_FIELDS):
            name = f'{name}.jpg'
            _once(path, name, ellipses)
            ellipses[name] = rows[:, :5]
            fold[name] = subsets['all'][name] = np.ones(len(rows), bool)
    faces = {name: _boxed(ellipse_boxes(rows)) for name, rows in ellipses.items()}
    return DetectionSet(f'FDDB, {len(files)} fold{"s" * (len(files) != 1)}', faces, subsets, ellipses)


def _once(path: Path, name: str, seen: dict) -> None:
    if name in seen:
        raise FaceError(f'{path}: {name!r} is listed twice; remove one of the two blocks')


def _read_label_file(files: list[Path]) -> DetectionSet:
    """All faces that have a size count."""
    path = _one(files)
    faces = read_labels(read_names(path), str(path))
    return DetectionSet(path.name, faces, {'all': {name: (f.sides > 0).all(1) for name, f in faces.items()}})


# --- the official evaluation's .mat files

def _read_wider_mat(files: list[Path]) -> DetectionSet:
    """Boxes of ``wider_face_val.mat``; its three companions list by number, from 1, the faces that count in each subset."""
    main = _one(files)
    boxes = dict(_cells(main, 'face_bbx_list'))
    faces = {name: _with_sides(_table(main, name, rows)) for name, rows in boxes.items()}
    subsets = {}
    for subset in WIDER_SUBSETS:
        path = main.with_name(f'wider_{subset}_val.mat')
        if not path.is_file():
            raise FaceError(f'{path}: missing; the official evaluation has it beside {main.name} in eval_tools/ground_truth. '
                            'Copy it from there, or name a wider_face_val_bbx_gt.txt, which has no subsets')
        numbers = dict(_cells(path, 'gt_list'))
        if numbers.keys() != faces.keys():
            raise FaceError(f'{path}: its pictures are not those of {main}; take both from one download')
        subsets[subset] = {name: _mask(path, name, numbers[name], len(faces[name])) for name in faces}
    return DetectionSet('WIDER FACE val', faces, subsets)


def _cells(path: Path, key: str) -> Iterator[tuple[str, np.ndarray]]:
    """Picture, ``event/file.jpg``, and its entry in the cell array ``key``."""
    data = _load_mat(path, ['event_list', 'file_list', key])
    try:
        for event, names, entries in zip(data['event_list'].ravel(), data['file_list'].ravel(), data[key].ravel(), strict=True):
            for name, entry in zip(names.ravel(), entries.ravel(), strict=True):
                yield f'{event.item()}/{name.item()}.jpg', entry
    except (KeyError, ValueError, AttributeError) as error:
        raise FaceError(f'{path}: not a WIDER FACE file with event_list, file_list and {key} ({error}); download it '
                        'again') from None


def _load_mat(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    loadmat = require('scipy.io', 'bench').loadmat
    try:
        return loadmat(path, variable_names=names)
    except Exception as error:  # what it raises depends on where the file is damaged: SciPy's, zlib's and Python's own
        raise FaceError(f'{path}: not a MATLAB file that SciPy can read ({error}); download it again') from None


def _table(path: Path, name: str, rows: np.ndarray) -> np.ndarray:
    if rows.ndim == 2 and rows.shape[1] == 4:
        return rows.astype(np.float64)
    raise FaceError(f'{path}: {name}: boxes of shape {rows.shape}, not (faces, 4); download the file again')


def _mask(path: Path, name: str, numbers: np.ndarray, faces: int) -> np.ndarray:
    rows = numbers.astype(np.int64).ravel() - 1
    if ((rows < 0) | (rows >= faces)).any():
        raise FaceError(f'{path}: {name}: face {int(rows.max()) + 1} of {faces}; the file belongs to another '
                        'wider_face_val.mat')
    mask = np.zeros(faces, bool)
    mask[rows] = True
    return mask


_READERS = {'wider_face_val.mat': _read_wider_mat, '*-ellipseList.txt': _read_fddb, '*_bbx_gt.txt': _read_wider_list,
            '*.txt': _read_label_file}
