"""Does a recipe fit its data? Counts, labels, images and the schedule, without reading the whole data set."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plugins.data.sources import FaceSource, RecordFaces, TreeFaces, open_faces, shrink_crop, spread
from plugins.data.verification import FOLDS, BinError, read_bin
from plugins.preprocess import FaceError, decode_image

__all__ = ['Finding', 'check_counts', 'check_recipe', 'check_schedule']

_SAMPLE = 1000


@dataclass(frozen=True)
class Finding:
    """Something about a recipe; with a ``serious`` one a training must not start."""

    text: str
    serious: bool = True


def check_recipe(config: Mapping, size: int = 112, arcface_torch: bool = False) -> list[Finding]:
    """Compare a recipe (arcface_torch's keys) with the data that it names.

    Args:
        size: side of the crops that the network takes.
        arcface_torch: the recipe is for InsightFace's trainer, which reads folders only, takes crops as they are, does not
            understand label -1 (unknown identity) and skips a verification set that is not there.
    """
    findings = [*check_schedule(config)]
    if config['rec'] == 'synthetic':
        return [*findings, Finding("rec='synthetic' is the same random image a million times, whatever num_image says; use it "
                                   'only to measure speed (the loss may become NaN)', serious=False)]
    findings += _check_place(Path(config['rec']), arcface_torch)
    if not any(finding.serious for finding in findings):
        source = open_faces(config['rec'])
        findings += check_counts(config, source)
        findings += _check_labels(config, source, not arcface_torch)
        findings += _check_images(source, size, arcface_torch)
        findings += _check_validation(config, arcface_torch)
        findings += _check_layout(config, source) if arcface_torch else ()
    return findings


def check_schedule(config: Mapping) -> Iterator[Finding]:
    """Whether warm-up and milestones lie within the training, and a batch within the stated number of images."""
    epochs, warmup = config['num_epoch'], config.get('warmup_epoch', 0)
    if warmup >= epochs:
        yield Finding(f'warmup_epoch={warmup} is not below num_epoch={epochs}')
    milestones = list(config.get('milestones') or ())
    if milestones != sorted(milestones) or any(not 0 < milestone < epochs for milestone in milestones):
        yield Finding(f'milestones={milestones} must rise and lie within num_epoch={epochs}')
    images, batch = config.get('num_image'), config.get('batch_size', 128)
    if images is not None and images < batch:
        yield Finding(f'num_image={images} is less than one batch of {batch}')


def _check_place(root: Path, arcface_torch: bool) -> Iterator[Finding]:
    if not root.exists():
        yield Finding(f"rec='{root}': there is no such data set; put it there (or a link), or name its place with rec=DIR")
    elif arcface_torch and not root.is_dir():
        yield Finding(f"rec='{root}': InsightFace's trainer takes folders only; name the one that train.rec lies in, or unpack "
                      'the archive')
    elif (root / 'train.rec').exists() and not (root / 'train.idx').exists():
        yield Finding(f'{root}/train.idx is missing, and InsightFace would take the folder for one of images; make it '
                      f'with `facezoo data index {root}/train.rec`')


def check_counts(config: Mapping, source: FaceSource) -> Iterator[Finding]:
    """Whether the numbers of images and identities in a recipe, where it states them, are those of its data."""
    found = {'num_image': len(source)}
    if not isinstance(source, RecordFaces) or source.knows_classes:
        found['num_classes'] = source.num_classes
    for key, count in found.items():
        if config.get(key) is not None and config[key] != count:
            yield Finding(f'{key}={config[key]} in the recipe, but {config["rec"]} holds {count:d}; correct the recipe '
                          '(num_image decides the learning-rate schedule, num_classes the size of the head)')


def _check_labels(config: Mapping, source: FaceSource, unknown_faces: bool) -> Iterator[Finding]:
    """A sample of the labels, and the last one: `facezoo data pack` puts faces of unknown identity last."""
    classes = config.get('num_classes') or math.inf
    for index in spread(source, _SAMPLE).tolist():
        label = _label(source, index)
        if label == -1 and unknown_faces:
            continue
        if not (math.isfinite(label) and label == int(label) and 0 <= label < classes):
            unknown = ' (a face of unknown identity, which only `facezoo train` can use)' if label == -1 else ''
            yield Finding(f'{source.name(index)}: label {label:g}{unknown} is no class from 0 to num_classes - 1 = '
                          f'{classes - 1:g}')
            return


def _label(source: FaceSource, index: int) -> float:
    if isinstance(source, RecordFaces):
        label = source.header_of(index).label
        return label[0] if isinstance(label, tuple) else label
    return source.read(index)[1]


def _check_images(source: FaceSource, size: int, exact: bool) -> Iterator[Finding]:
    """The first and the last image."""
    for index in {0, len(source) - 1}:
        name = source.name(index)
        try:
            image = decode_image(source.read(index)[0], name)
            shrink_crop(image, size, name)
        except FaceError as error:
            yield Finding(str(error))
            continue
        if exact and image.shape[:2] != (size, size):
            yield Finding(f"{name}: {image.shape[1]}x{image.shape[0]} pixels, and InsightFace's trainer feeds images as they "
                          f'are; make crops of {size}x{size} (`facezoo data align`)')


def _check_layout(config: Mapping, source: FaceSource) -> Iterator[Finding]:
    """What InsightFace's loaders take for a face, and for a person."""
    if config.get('dali') and not (isinstance(source, RecordFaces) and source.header is None):
        yield Finding('dali=True: DALI reads records only, and takes the header of a train.rec for a face; use the copy '
                      'without a header that `facezoo arcface-torch scripts/shuffle_rec.py DIR` writes beside DIR')
    if isinstance(source, TreeFaces):
        yield from _check_folders(source)
    if isinstance(source, RecordFaces) and source.header is None and source.header_of(0).flag:
        yield Finding(f"{source.name(0)}: a face with a list of labels comes first, and InsightFace's trainer takes it for a "
                      'header with the number of images; write the records anew (`facezoo data unpack`, `facezoo data pack`)')


def _check_folders(source: TreeFaces) -> Iterator[Finding]:
    """InsightFace (torchvision's ImageFolder) numbers the folders right below the root, whatever they hold."""
    theirs = {entry.name for entry in os.scandir(source.root) if entry.is_dir()}
    if odd := sorted(theirs ^ set(source.classes)):
        yield Finding(f"{source.root}: InsightFace's trainer takes each folder directly below it for a person, facezoo each "
                      f'folder with pictures in it; they differ in {len(odd)}, such as {odd[0]!r}: the trainer would stop, or '
                      'learn other labels. Keep one folder of pictures for each person, or make records with '
                      '`facezoo data pack`')


def _check_validation(config: Mapping, arcface_torch: bool) -> Iterator[Finding]:
    for name in config.get('val_targets') or ():
        path = Path(config['rec']) / f'{name}.bin'
        if path.is_file():
            yield from _check_folds(path) if arcface_torch else ()
        elif arcface_torch or not Path(name).exists():  # InsightFace does not take the path of a set
            yield Finding(f'{path} is missing: no verification on {name} during training', serious=not arcface_torch)


def _check_folds(path: Path) -> Iterator[Finding]:
    """InsightFace divides by the number of pairs of either kind in each of ten folds, which follow one another."""
    try:
        _, same = read_bin(path)
    except BinError as error:
        yield Finding(str(error))
        return
    if any(fold.all() or not fold.any() for fold in np.array_split(same, FOLDS)):
        yield Finding(f"{path}: of the {FOLDS} consecutive folds of its {len(same)} pairs, some lack pairs of one person, or "
                      "pairs of two: InsightFace's trainer would stop at its first verification. Mix the pairs "
                      '(`facezoo data pack --holdout` does), or leave the set out of val_targets')
