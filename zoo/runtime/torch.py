"""Embedder and detector on PyTorch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from plugins.detectors._base import Detector
from plugins.detectors._deploy import DeployedDetector
from plugins.preprocess import PictureNorm, Preprocess

__all__ = ['TorchDetector', 'TorchEmbedder', 'open_torch', 'open_torch_detector']


class TorchEmbedder:
    """A backbone as an Embedder (evaluation mode while it runs, its mode is put back afterwards)."""

    def __init__(self, model: nn.Module, preprocess: Preprocess | None = None, name: str = '', bf16: bool = False) -> None:
        self.model, self.name, self.bf16 = model, name or type(model).__name__, bf16
        self.preprocess = preprocess or Preprocess()
        self.num_features = model.num_features

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        training = self.model.training
        device = next(self.model.parameters()).device
        if training:  # not each time: for one face the walk over all modules and back would be a twentieth of the work
            self.model.eval()
        try:
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
                x = torch.from_numpy(self.preprocess(faces)).to(device, memory_format=torch.channels_last)
                return self.model(x).float().cpu().numpy()
        finally:
            if training:
                self.model.train()


def open_torch(model: str | os.PathLike, threads: int = 0, **options) -> TorchEmbedder:
    """A zoo name or a weights file as an Embedder.

    Args:
        threads: of all of PyTorch in this process; 0 leaves them as they are.
        options: see :func:`zoo.load`.

    Raises:
        ValueError: the model is a detector.
    """
    import zoo
    if threads:
        torch.set_num_threads(threads)
    net = zoo.load(model, **options)
    if isinstance(net, Detector):
        raise ValueError(f'{model} is a detector, which embeds no faces; give a recogniser')
    # as its inputs are: else every call would reorder the weights, a third of the time of a single face
    net.to(memory_format=torch.channels_last)
    return TorchEmbedder(net, net.preprocess, str(model))


class TorchDetector:
    """A detector as a :class:`zoo.runtime.detector.DetectorNet` (in evaluation mode, a copy)."""

    def __init__(self, detector: Detector, name: str = '', score: float | None = None) -> None:
        self.model = DeployedDetector(detector).to(memory_format=torch.channels_last)
        self.preprocess, self.strides, self.name = PictureNorm(), detector.anchors.strides, name or type(detector).__name__
        self.score, self.side = score, None
        self._device = next(detector.parameters()).device

    def __call__(self, pictures: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            x = torch.from_numpy(self.preprocess(pictures)).to(self._device, memory_format=torch.channels_last)
            return [o.reshape(len(pictures), -1, o.shape[1]).cpu().numpy() for o in self.model(x)]


def open_torch_detector(model: str | os.PathLike, threads: int = 0, **options) -> TorchDetector:
    """A zoo name or a weights file as a detector's net.

    Raises:
        ValueError: the model is a recogniser, or a file that does not say which detector it belongs to.
    """
    import zoo
    from zoo.export.fold import fold_batchnorm
    from zoo.model_card import WEIGHTS_SUFFIXES, weights_of
    from zoo.weights import describe
    if threads:
        torch.set_num_threads(threads)
    path = Path(model)
    if path.suffix in WEIGHTS_SUFFIXES and path.is_file() and 'network' not in {**describe(path), **options}:
        raise ValueError(f'{model} does not say which detector it belongs to; export it, and name the file that is written: '
                         f'`facezoo export {model} --network retinaface_mnet025 --to onnx --out {path.stem}.onnx`')
    net = zoo.load(model, **options)
    if not isinstance(net, Detector):
        raise ValueError(f'{model} is a recogniser, not a detector; `facezoo list` shows the detectors')
    own = None if options.get('weights') else weights_of(model)
    return TorchDetector(fold_batchnorm(net), str(model), own.thresholds.get('score') if own else None)
