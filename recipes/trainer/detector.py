"""The training loop of detectors: labelled pictures, a teacher, or both."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import zoo
from plugins.data.datasets import face_loader
from plugins.data.pictures import Pictures, read_labels
from plugins.data.scenes import SceneAugment
from plugins.detectors._base import Detector
from plugins.faces import Faces
from plugins.files import read_names, sha256_file
from plugins.losses.multibox import assign, dense_distillation, multibox_loss
from plugins.preprocess import FaceError, PictureNorm
from plugins.registry import create_detector
from recipes.config import RecipeError
from recipes.detection import DetectorConfig
from recipes.trainer.labels import label_pictures
from recipes.trainer.run import Interrupted, Run, make_optimizer, moving_average, stop_signal
from recipes.trainer.schedule import learning_rate
from recipes.trainer.teacher import fingerprint_model
from zoo.export.fold import fold_batchnorm
from zoo.hub import weights_path
from zoo.runtime.torch import TorchDetector
from zoo.weights import load_weights

__all__ = ['DetectorTrainer']


class SceneDataset(Dataset):
    """Views of labelled pictures. Item ``(view, index)`` is a pure function of ``(seed, view, index)``.

    Yields batches ``(views uint8 RGB (N, S, S, 3), faces of each, indices)``.
    """

    def __init__(self, pictures: Pictures, size: int, augment: SceneAugment, seed: int) -> None:
        self.pictures, self.size, self.augment, self.seed = pictures, size, augment, seed

    def __len__(self) -> int:
        return len(self.pictures)

    def load(self, view: int, index: int) -> tuple[np.ndarray, Faces]:
        """A view uint8 RGB ``(S, S, 3)`` and its faces.

        Raises:
            FaceError: a picture cannot be decoded.
        """
        rng = np.random.default_rng((self.seed, view, index))
        first = [index]  # the picture itself, then random others

        def load(longest: int) -> tuple[np.ndarray, Faces]:
            return self.pictures.load(first.pop() if first else int(rng.integers(len(self.pictures))), longest)

        return self.augment(self.size, load, rng)

    def __getitems__(self, items: list[tuple[int, int]]) -> tuple[Tensor, list[Faces], Tensor]:
        views, faces = zip(*(self.load(*item) for item in items), strict=True)
        return torch.from_numpy(np.stack(views)), list(faces), torch.tensor([index for _, index in items])


class DetectorTrainer(Run):
    """One run of a detector's recipe.

    Raises:
        RecipeError, FaceError, CheckpointError: the recipe, the data or the checkpoint do not fit; nothing was written.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__(config)
        self.fabric.seed_everything(config.seed, verbose=False)
        self.raw: Detector = create_detector(config.network, **config.network_args)  # before the labels, which take long
        try:
            self.priors = self.raw.anchors.priors(config.view_size, config.view_size)
        except ValueError as error:
            raise RecipeError(f'view_size={config.view_size}: {error}') from None
        init_weights(self.raw)
        if config.init:
            load_weights(self.raw, weights_path(config.init))
            self.raw.renormalise(PictureNorm())  # a public checkpoint brings its own preprocessing, which the file would lose
        # before the optimiser and the average, whose state is where the weights are
        self.raw.to(self.fabric.device, memory_format=torch.channels_last)
        self.teacher = self._load_teacher() if config.teacher else None
        labels = Path(config.labels or self.output / 'label.txt')
        if not config.labels and not (config.resume and labels.is_file()):
            label_pictures(TorchDetector(self.teacher, config.teacher), config.pictures, labels)
        pictures = Pictures(config.pictures, read_labels(read_names(labels), str(labels)))
        if not any(map(len, pictures.faces)):
            raise FaceError(f'{labels}: no face in {len(pictures)} pictures; there is nothing to learn')
        self.dataset = SceneDataset(pictures, config.view_size, SceneAugment(**config.augment), config.seed)
        self.optimizer = make_optimizer(config, self.raw)
        self.ema = moving_average(self.raw, config.ema)
        self.data = {'pictures': len(pictures), 'digest of the labels': sha256_file(labels)[:16],
                     **{f'digest of {name}': fingerprint_model(name) for name in (config.teacher, config.init) if name}}
        if config.resume:
            self._restore()
        self.student, self.optimizer = self.fabric.setup(self.raw, self.optimizer)

    def _load_teacher(self) -> Detector:
        teacher = zoo.load(self.config.network, self.config.teacher, **self.config.network_args)
        return fold_batchnorm(teacher).to(self.fabric.device, memory_format=torch.channels_last)

    def fit(self) -> dict:
        """Train to the end; see :meth:`recipes.trainer.engine.Trainer.fit`.

        Returns:
            ``train``: running means of the losses.
        """
        config = self.config
        sampler, log = self._open()
        per_epoch, step = sampler.steps_per_epoch, sampler.start
        means: dict[str, float] = {}
        with stop_signal() as stop:
            for views, faces, indices in face_loader(self.dataset, sampler, config.num_workers):
                losses = self._step(views, faces, indices, step, per_epoch)
                step += 1
                self.images = step * self.world_batch
                log.advance()
                means = {key: means.get(key, value) * 0.99 + value * 0.01 for key, value in losses.items()}
                if step % config.frequent == 0:
                    log.write(step, epoch=step / per_epoch, **means, lr=self.optimizer.param_groups[0]['lr'], rate=log.rate())
                if self._stops(stop):
                    log.close()
                    raise Interrupted(f'stopped after {self.images} views; go on with resume=true')
        self._save()
        log.close()
        return {'train': means}

    def _step(self, views: Tensor, faces: list[Faces], indices: Tensor, step: int, per_epoch: int) -> dict[str, float]:
        config = self.config
        for group in self.optimizer.param_groups:
            group['lr'] = learning_rate(config, step / per_epoch)
        self.student.train()
        x = self.raw.preprocess.tensor(views.to(self.fabric.device))
        outputs = self.student(x)
        targets = assign(faces, self.priors).to(self.fabric.device)
        if self.teacher is None:
            losses = multibox_loss(outputs, targets)
        else:
            with torch.inference_mode(), torch.autocast(views.device.type, enabled=False):
                opinion = self.teacher(self.teacher.preprocess.tensor(views.to(self.fabric.device)))
            losses = dense_distillation(outputs, tuple(o.clone() for o in opinion), targets)
        weights = {'score': 1.0, 'box': config.box_weight, 'landmark': config.landmark_weight}
        loss = sum(weights[key] * value for key, value in losses.items())
        words = partial(self._words, indices)
        self._check_loss(loss.item(), step, words)
        self.fabric.backward(loss)
        self._update(step, words)
        return {key: value.item() for key, value in losses.items()}

    def _words(self, indices: Tensor) -> str:
        return f'views of {", ".join(self.dataset.pictures.names[int(i)] for i in indices[:3])}, ...'


def init_weights(model: nn.Module) -> None:
    """He initialisation (fan-out); the last convolution of each score head begins with faces being rare (focal loss, Lin
    2017)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for heads in (model.heads.scores, model.heads.boxes, model.heads.landmarks):
        for head in heads:
            last = [m for m in head.modules() if isinstance(m, nn.Conv2d)][-1]
            nn.init.normal_(last.weight, std=0.01)
            if heads is model.heads.scores:
                nn.init.constant_(last.bias[0::2], 2.0)
                nn.init.constant_(last.bias[1::2], -2.0)
