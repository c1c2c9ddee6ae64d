"""Recipes: flat ``config`` mappings with arcface_torch's own keys, checked and completed into a :class:`TrainConfig`.

A recipe with ``task='detection'`` becomes a :class:`recipes.detection.DetectorConfig` instead.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from plugins.data.augment import Augment
from plugins.data.degrade import Degrade
from plugins.files import import_file
from plugins.overrides import apply_overrides
from plugins.registry import suggest

if TYPE_CHECKING:
    from recipes.detection import DetectorConfig

__all__ = ['RecipeError', 'TrainConfig', 'check_options', 'check_values', 'list_recipes', 'load_recipe', 'read_config']

# task of a recipe: the class of its configuration, as module:name
_TASKS = {'recognition': 'recipes.config:TrainConfig', 'detection': 'recipes.detection:DetectorConfig'}

# keys of arcface_torch's configs/base.py that mean nothing here; accepted so that one file serves both trainers
_INSIGHTFACE_ONLY = frozenset({
    'fp16', 'sample_rate', 'interclass_filtering_threshold', 'dali', 'dali_aug', 'save_all_states', 'using_wandb',
    'wandb_key', 'wandb_entity', 'wandb_project', 'wandb_log_all', 'wandb_resume', 'save_artifacts', 'suffix_run_name',
    'notes',
})

# losses of plugins.losses.distillation, which needs torch
DISTILL = ('embedding', 'relation', 'label', 'attention', 'askd', 'at')


class RecipeError(ValueError):
    """A recipe is missing, or a key or value in it is wrong."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training depends on. Names that arcface_torch has mean what they mean there.

    Attributes:
        network, network_args, embedding_size: backbone, its options, ``num_features``.
        rec: training faces: folder with ``train.rec``, folder or zip of identities.
        num_classes, num_image: when given, checked against ``rec`` (arcface_torch needs them).
        val_targets: names of ``<rec>/<name>.bin``, or paths of verification sets.
        num_epoch, warmup_epoch, batch_size, gradient_acc: batch size a process; optimiser step every ``gradient_acc``.
        optimizer, lr, momentum, weight_decay: ``sgd`` (Nesterov when ``nesterov``) or ``adamw``.
        schedule: ``poly`` (linear to 0, arcface_torch's), ``cosine``, or ``step`` (x ``gamma`` at epochs ``milestones``).
        head: ``margin``, ``adaface`` or ``softmax``; margin_weight 0 leaves it out.
        margin_list, margin_end, scale: margins ``(m1, m2, m3)``, linear to ``margin_end`` over the training when given. AdaFace
            has m2 alone, 0.4 in its paper (``margin_list=(1, 0.4, 0)``; the default is 0.5). All three count, as in ArcFace's
            eq. 4; arcface_torch takes m2 or m3.
        centre_weight: of the centre loss beside the head.
        teachers: recognisers of any runtime to distil embeddings from, or one folder of a finished training, whose network
            and head then teach labels and attention as well.
        distill: weights by loss: ``embedding``, ``relation``, ``label``, ``attention``, ``askd``, ``at``
            (plugins.losses.distillation).
        label_temperature, label_hard: T and the weight of the hard term of ``label``. With a margin head on, that hard term is
            the same loss again: set ``label_hard=0`` to count it once.
        degrade: options of :class:`plugins.data.degrade.Degrade` for the student's faces; the teacher sees them clean.
        views: distinct augmentations of a face whose teacher embeddings are cached on disk; 0: always new, never cached.
        augment: probabilities of :class:`plugins.data.augment.Augment`.
        ema: decay of the exponential moving average of the weights that is evaluated and saved; 0: none.
        precision: ``32``, ``bf16`` (mixed), or ``auto``: bf16 where it is computed (a GPU, AVX512-BF16, AMX), float32
            elsewhere, where PyTorch emulates bf16 and takes 7 times as long.
        channels_last: memory format; compile: ``torch.compile`` the backbone.
        clip: limit of the gradient's norm over network and head together (arcface_torch: 5 over the network alone).
        explode: the training stops when its loss is above so many times that of its first steps; 0: never.
        init: what to start from: a weights file, or a model of the zoo (``fdfacenet``).
        quantise: round as 8-bit inference will (quantisation-aware fine-tuning, from ``init``); the verification measures the
            rounded network. ``compile`` is then left out.
        device: ``cpu``, ``cuda`` or ``auto``.
        output: folder of this run; resume: go on with the run in it.
        verbose: verify every so many steps (0: after every epoch); frequent: log every so many steps.
        save_minutes: time between checkpoints.
        seed: of weights, order and augmentation; num_workers: processes that load faces.

    Raises:
        RecipeError: a value that no trainer understands; the message names the key.
    """

    task: ClassVar[str] = 'recognition'
    network: str
    rec: str
    num_epoch: int
    output: str | None = None
    network_args: dict = field(default_factory=dict)
    embedding_size: int = 512
    num_classes: int | None = None
    num_image: int | None = None
    val_targets: tuple[str, ...] = ()
    warmup_epoch: float = 0
    batch_size: int = 128
    gradient_acc: int = 1
    optimizer: str = 'sgd'
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = 'poly'
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    margin_list: tuple[float, float, float] = (1.0, 0.5, 0.0)
    scale: float = 64.0
    margin_weight: float = 1.0
    margin_end: tuple[float, float, float] | None = None
    head: str = 'margin'
    centre_weight: float = 0.0
    teachers: tuple[str, ...] = ()
    distill: dict = field(default_factory=dict)
    label_temperature: float = 4.0
    label_hard: float = 0.5
    degrade: dict = field(default_factory=dict)
    views: int = 0
    augment: dict = field(default_factory=dict)
    ema: float = 0.0
    precision: str = '32'
    channels_last: bool = True
    compile: bool = False
    clip: float = 5.0
    explode: float = 2.0
    init: str | None = None
    quantise: bool = False
    device: str = 'auto'
    resume: bool = False
    verbose: int = 0
    frequent: int = 10
    save_minutes: float = 5.0
    seed: int = 2048
    num_workers: int = 2

    def __post_init__(self) -> None:
        check_values(self, ('num_epoch', 'batch_size', 'gradient_acc', 'embedding_size', 'lr', 'scale', 'frequent', 'clip',
                            'label_temperature'))
        if not 0 <= self.label_hard <= 1:
            raise RecipeError(f'label_hard={self.label_hard}: must be from 0 to 1')
        for key in ('margin_list', 'margin_end'):
            margins = getattr(self, key)
            if margins is not None and (len(margins) != 3 or not all(map(_is_number, margins))):
                raise RecipeError(f'{key}={list(margins)}: must be three numbers (m1, m2, m3)')
            if margins is not None and not (margins[0] > 0 and 0 <= margins[1] <= math.pi / 2 and margins[2] >= 0):
                raise RecipeError(f'{key}={list(margins)}: m1 must be above 0, m2 an angle from 0 to pi/2, m3 not negative')
        for name, weight in self.distill.items():
            if not _is_number(weight) or weight < 0:
                raise RecipeError(f'distill.{name}={weight!r}: must be a number, not negative')
        for key, remedy in (('num_features', 'set embedding_size'), ('input_size', 'leave it out, the network says it')):
            if key in self.network_args:
                raise RecipeError(f'network_args.{key}={self.network_args[key]!r}: {remedy}')
        if self.batch_size < 2:
            raise RecipeError(f'batch_size={self.batch_size}: BatchNorm behind the last layer needs two faces or more')
        if not self.margin_weight and not any(self.distill.values()):
            raise RecipeError('nothing to learn from: margin_weight is 0, and so is every weight in distill; set one of them')
        if bool(self.teachers) != bool(self.distill):
            raise RecipeError(f'teachers={list(self.teachers)} and distill={self.distill}: set both, or neither')
        if 'label' in self.distill and not self.margin_weight:
            raise RecipeError('distill.label compares class probabilities: it needs a head (margin_weight above 0)')
        _check_names('distill', self.distill, DISTILL)
        check_options('augment', self.augment, Augment)
        check_options('degrade', self.degrade, Degrade)


def check_values(config, positive: tuple[str, ...]) -> None:
    """Refuse values that no trainer understands.

    Raises:
        RecipeError: the message names the key, its value and what is allowed.
    """
    choices = {'head': ('margin', 'adaface', 'softmax'), 'optimizer': ('sgd', 'adamw'), 'schedule': ('poly', 'cosine', 'step'),
               'precision': ('auto', '32', 'bf16'), 'device': ('auto', 'cpu', 'cuda')}
    for key, allowed in choices.items():
        if hasattr(config, key) and getattr(config, key) not in allowed:
            raise RecipeError(f'{key}={getattr(config, key)!r}: must be one of {", ".join(allowed)}')
    for f in dataclasses.fields(config):
        if f.type == 'float' and not math.isfinite(getattr(config, f.name)):
            raise RecipeError(f'{f.name}={getattr(config, f.name)}: must be a finite number')
    for key in positive:
        if getattr(config, key) <= 0:
            raise RecipeError(f'{key}={getattr(config, key)!r}: must be positive')
    for key in ('seed', 'num_workers', 'warmup_epoch', 'weight_decay', 'views', 'verbose', 'save_minutes', 'explode',
                'margin_weight', 'centre_weight', 'box_weight', 'landmark_weight'):
        if getattr(config, key, 0) < 0:
            raise RecipeError(f'{key}={getattr(config, key)!r}: must not be negative')
    for key in ('ema', 'momentum'):
        if not 0 <= getattr(config, key) < 1:
            raise RecipeError(f'{key}={getattr(config, key)!r}: must be at least 0 and below 1')
    if config.seed >= 2 ** 32:
        raise RecipeError(f'seed={config.seed}: must be below 2^32')
    if config.nesterov and not config.momentum:
        raise RecipeError('nesterov=True needs a momentum above 0')
    if not all(map(_is_number, config.milestones)) or (config.schedule == 'step' and not config.milestones):
        raise RecipeError(f"milestones={list(config.milestones)}: must be numbers, and schedule='step' needs at least one")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_options(key: str, given: dict, kind: type) -> None:
    """Refuse options that are not fields of the dataclass ``kind``, or values that it refuses.

    Raises:
        RecipeError: the message names the option.
    """
    _check_names(key, given, [f.name for f in dataclasses.fields(kind)])
    try:
        kind(**given)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    except TypeError as error:
        raise RecipeError(f'{key}={given}: a value is of the wrong kind ({error})') from None


def _check_names(key: str, given: dict, known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise RecipeError(f'{key}.{name}: unknown{suggest(name, known)}')


def list_recipes() -> list[str]:
    """Names of the recipes that facezoo ships."""
    package = importlib.import_module('recipes')  # NETWORK_DATA.py each; no other module of it has an underscore
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if '_' in m.name)


def load_recipe(name: str, overrides: dict | None = None) -> TrainConfig | DetectorConfig:
    """A shipped recipe by name, or a ``.py`` file with a ``config`` mapping, with overrides applied
    (:func:`plugins.overrides.apply_overrides`).

    Raises:
        RecipeError: no such recipe, unknown key, or a value of the wrong kind; the message names it.
    """
    try:
        config = apply_overrides(read_config(name), overrides or {})
    except ValueError as error:
        raise RecipeError(f'recipe {name}: {error}') from None
    kind = _config_class(name, config.pop('task', 'recognition'))
    known = {f.name: f for f in dataclasses.fields(kind)}
    for key in sorted(set(config) - set(known) - _INSIGHTFACE_ONLY):
        raise RecipeError(f'recipe {name}: unknown key {key!r}{suggest(key, known)}')
    values = {key: _cast(name, known[key], value) for key, value in config.items() if key in known}
    missing = [key for key, f in known.items()
               if f.default is f.default_factory is dataclasses.MISSING and values.get(key) is None]
    if missing:
        raise RecipeError(f'recipe {name}: {", ".join(missing)} must be set')
    if values.get('output') is None:
        values['output'] = str(Path('work_dirs') / Path(name).stem)
    try:
        return kind(**values)
    except RecipeError as error:
        raise RecipeError(f'recipe {name}: {error}') from None


def _config_class(name: str, task: str) -> type:
    if task not in _TASKS:
        raise RecipeError(f'recipe {name}: unknown task {task!r}{suggest(str(task), _TASKS)}')
    module, _, attribute = _TASKS[task].partition(':')
    return getattr(importlib.import_module(module), attribute)


def read_config(name: str) -> dict:
    """The ``config`` mapping of a recipe as it is written; see :func:`load_recipe`.

    Raises:
        RecipeError: no such recipe, or it defines none.
        FileNotFoundError: no such ``.py`` file.
    """
    path = Path(name)
    if path.suffix == '.py':
        module = import_file(path)
    else:
        stem = name.removeprefix('configs/')
        if stem not in list_recipes():
            raise RecipeError(f'unknown recipe {name!r}{suggest(stem, list_recipes())}; '
                              'name a file of your own with its .py')
        module = importlib.import_module(f'recipes.{stem}')
    if not hasattr(module, 'config'):
        raise RecipeError(f'recipe {name}: defines no `config`')
    return module.config


def _cast(recipe: str, field_: dataclasses.Field, value):
    """Check a value against the annotation of its field, allowing int for float and list for tuple."""
    kinds = {'str': str, 'int': int, 'float': (int, float), 'bool': bool, 'dict': dict, 'str | None': (str, type(None)),
             'int | None': (int, type(None))}
    if field_.type.startswith('tuple'):
        if value is None and field_.type.endswith('None'):
            return None
        kind = field_.type.removeprefix('tuple[').partition(',')[0]
        if not isinstance(value, list | tuple) or not all(_is_a(item, kinds[kind]) for item in value):
            raise RecipeError(f'recipe {recipe}: {field_.name}={value!r}: must be a list of {kind}')
        return tuple(value)
    kind = kinds[field_.type]
    if field_.name == 'precision':
        value = str(value)
    if not _is_a(value, kind):
        raise RecipeError(f'recipe {recipe}: {field_.name}={value!r}: must be {field_.type}')
    return dict(value) if kind is dict else value


def _is_a(value: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
