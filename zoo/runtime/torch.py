"""Embedder on PyTorch."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import nn

from plugins.preprocess import Preprocess

__all__ = ['TorchEmbedder', 'open_torch']


class TorchEmbedder:
    """A backbone as an Embedder (evaluation mode while it runs, its mode is put back afterwards)."""

    def __init__(self, model: nn.Module, preprocess: Preprocess | None = None, name: str = '', bf16: bool = False) -> None:
        self.model, self.name, self.bf16 = model, name or type(model).__name__, bf16
        self.preprocess = preprocess or Preprocess()
        self.num_features = model.num_features

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        training = self.model.training
        device = next(self.model.parameters()).device
        self.model.eval()
        try:
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
                x = torch.from_numpy(self.preprocess(faces)).to(device, memory_format=torch.channels_last)
                return self.model(x).float().cpu().numpy()
        finally:
            self.model.train(training)


def open_torch(model: str | os.PathLike, threads: int = 0, **options) -> TorchEmbedder:
    """A zoo name or a weights file as an Embedder."""
    import zoo
    if threads:
        torch.set_num_threads(threads)
    net = zoo.load(model, **options)
    return TorchEmbedder(net, net.preprocess, str(model))
