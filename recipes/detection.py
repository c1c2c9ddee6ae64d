"""Recipes of detectors: what a training of one depends on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from plugins.data.scenes import SceneAugment
from recipes.config import RecipeError, check_options, check_values

__all__ = ['DetectorConfig']


@dataclass(frozen=True)
class DetectorConfig:
    """Everything that the training of a detector depends on.

    Attributes:
        network, network_args: detector and its options.
        pictures: folder, zip or folder in a zip; taken as they are stored, as labels are made: photos whose EXIF tag turns
            them have to be turned before.
        labels: RetinaFace's ``label.txt`` (:mod:`plugins.data.pictures`), or what the teacher of an earlier run wrote. Without
            it the teacher labels the pictures first, at two scales and mirrored, into ``output/label.txt``.
        teacher: weights of a detector with the same anchors; it also judges every anchor of every view. Without it the loss
            is SSD's multibox loss.
        num_epoch, warmup_epoch, batch_size: as for recognisers; an epoch is one view for each picture.
        view_size: side of the square views, a multiple of 32 (64 for SSD).
        optimizer, lr, momentum, nesterov, weight_decay, schedule, milestones, gamma, clip, ema, precision, device: as for
            recognisers.
        box_weight, landmark_weight: of those losses; the score's is 1.
        augment: options of :class:`plugins.data.scenes.SceneAugment`.
        init: what to start from: a weights file, or a detector of the zoo.
        output: folder of this run; resume: go on with the run in it.
        explode: as for recognisers.
        frequent: log every so many steps; save_minutes: time between checkpoints.
        seed: of weights, order and views; num_workers: processes that make views.

    Raises:
        RecipeError: a value that no trainer understands; the message names the key.
    """

    task: ClassVar[str] = 'detection'
    network: str
    pictures: str
    num_epoch: int
    output: str | None = None
    network_args: dict = field(default_factory=dict)
    labels: str | None = None
    teacher: str | None = None
    warmup_epoch: float = 1
    batch_size: int = 16
    view_size: int = 320
    optimizer: str = 'adamw'
    lr: float = 1e-3
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = 'cosine'
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    box_weight: float = 2.0
    landmark_weight: float = 1.0
    augment: dict = field(default_factory=dict)
    ema: float = 0.0
    precision: str = '32'
    clip: float = 5.0
    explode: float = 2.0
    init: str | None = None
    device: str = 'auto'
    resume: bool = False
    frequent: int = 10
    save_minutes: float = 5.0
    seed: int = 2048
    num_workers: int = 2

    def __post_init__(self) -> None:
        check_values(self, ('num_epoch', 'batch_size', 'lr', 'clip', 'frequent', 'view_size'))
        check_options('augment', self.augment, SceneAugment)
        if not self.labels and not self.teacher:
            raise RecipeError('nothing to learn from: give labels=label.txt or teacher=WEIGHTS')
        if self.view_size % 32:
            raise RecipeError(f'view_size={self.view_size}: must be a multiple of 32')
