"""A finished training as a teacher finds it: its output folder with ``recipe.yaml`` and ``checkpoint.pt``."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import torch

from plugins.data.sources import FaceSource, fingerprint, open_faces
from plugins.registry import suggest
from recipes.config import RecipeError, TrainConfig
from zoo.datafile import read_yaml

__all__ = ['check_identities', 'finished_recipe', 'finished_state', 'is_training']

_LOG = logging.getLogger(__name__)


def is_training(path: str | Path) -> bool:
    """Whether this is an output folder of the trainer, whole or not."""
    return any((Path(path) / name).is_file() for name in ('checkpoint.pt', 'recipe.yaml'))


def finished_recipe(run: Path) -> TrainConfig:
    """The recipe of a training.

    Raises:
        RecipeError: ``recipe.yaml`` is missing, or is none of a recogniser's training; the message names it.
    """
    path = run / 'recipe.yaml'
    if not path.is_file():
        raise RecipeError(f'teacher {run}: {path.name}, which names the network, is missing; copy the whole output '
                          'folder of the training')
    data, known = read_yaml(path, RecipeError), {f.name for f in dataclasses.fields(TrainConfig)}
    for key in data:
        if key not in known:
            raise RecipeError(f'{path}: unknown key {key!r}{suggest(str(key), known)}; a teacher is a recogniser, with '
                              'the recipe.yaml that this version of facezoo writes')
    try:
        return TrainConfig(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})
    except (RecipeError, TypeError) as error:  # TypeError: a key is missing, or a value of another kind
        raise RecipeError(f'{path}: {error}; restore it as the training wrote it') from None


def finished_state(run: Path) -> dict:
    """What a training saved last: ``student`` and ``ema``, on the CPU. One that has not ended is logged.

    Raises:
        RecipeError: ``checkpoint.pt`` is missing, damaged or of another program; the message names it.
    """
    path = run / 'checkpoint.pt'
    if not path.is_file():
        raise RecipeError(f'teacher {run}: {path.name} is missing; copy the whole output folder, or finish the training first')
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), '')
        raise RecipeError(f'{path}: cannot be read ({type(error).__name__}: {reason}); copy it again, or train the teacher '
                          'again') from None
    missing = {'student', 'ema'} - set(state if isinstance(state, dict) else ())
    if missing:
        raise RecipeError(f'{path}: not the checkpoint of a recogniser, because it has no {" and no ".join(sorted(missing))}; '
                          'to teach with weights alone, name the weights file itself')
    if 'data' in state:  # not in those of the first versions
        batch = state['world_batch']
        total = state['config']['num_epoch'] * (state['data']['images'] // batch) * batch
        if state['images'] < total:
            _LOG.warning('teacher %s: its training is not finished, it has seen %d of %d images', run, state['images'], total)
    return state


def check_identities(run: Path, teacher: TrainConfig, digest: str | None, student: TrainConfig, source: FaceSource) -> None:
    """Refuse a teacher whose classes are other persons than those of the student's faces ``source``.

    A folder names its identities; records only number them, so there images and labels are compared. A teacher whose
    faces are gone cannot be compared, which is logged.

    Args:
        digest: of the faces that the teacher learned from, None when its checkpoint does not say it.

    Raises:
        RecipeError: names or images differ.
    """
    if Path(teacher.rec).resolve() == Path(student.rec).resolve():
        if digest and not hasattr(source, 'classes') and fingerprint(source) != digest:  # packed anew, with another draw say
            raise RecipeError(f'teacher {run} learned from other images or labels than {student.rec} holds now: label '
                              'distillation needs the same training set for both; train the teacher again')
        return
    try:
        others = open_faces(teacher.rec)
    except (OSError, ValueError) as error:
        _LOG.warning('teacher %s: its faces cannot be read (%s), so its identities are not compared with those of %s; if they '
                     'differ, its labels teach nonsense', run, error, student.rec)
        return
    theirs, mine = (getattr(each, 'classes', None) for each in (others, source))
    if theirs and mine:
        first = next((pair for pair in zip(theirs, mine, strict=False) if pair[0] != pair[1]), None)
        same = theirs == mine
        difference = f'first difference: {first[0]} and {first[1]}' if first else 'another number of identities'
    else:
        same, difference = fingerprint(others) == fingerprint(source), 'other images or labels'
    if not same:
        raise RecipeError(f'teacher {run} learned the identities of {teacher.rec}, the student those of {student.rec} '
                          f'({difference}): label distillation needs the same training set for both')
