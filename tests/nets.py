"""Small builds of every backbone with settled statistics, for the batteries; what graphs compute, and how alike it is."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import zoo
from plugins.preprocess import l2_normalise
from plugins.registry import create_backbone
from zoo.export.graph import Activations, Graph
from zoo.export.ncnn_model import NcnnModel


def build(name: str, **kwargs):
    """The network, or the small build that its card names."""
    torch.manual_seed(0)
    return create_backbone(name, **{**zoo.card(name).small, **kwargs})


def inputs_for(model, images: torch.Tensor) -> torch.Tensor:
    """112x112 faces ``(N, 3, 112, 112)`` at the network's own size."""
    return nn.functional.interpolate(images, model.input_size, mode='bilinear', antialias=True)


def settle(model, x: torch.Tensor) -> None:
    """Give BatchNorm the statistics of real faces, and centre the embedding of networks that do not end in one.

    With untrained statistics every face gets nearly the same embedding, and then any parity test passes.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
    views = torch.cat([x, x.flip(3), x * 0.5, x.flip(2)])
    with torch.no_grad():
        model.train()(views)
        model.eval()
        last = [m for m in model.modules() if isinstance(m, nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d)][-1]
        if isinstance(last, nn.Linear):
            outputs = []
            handle = last.register_forward_hook(lambda module, inputs, output: outputs.append(output))
            model(views)
            handle.remove()
            last.bias -= outputs[0].mean(0)


def embed(model, x: np.ndarray) -> np.ndarray:
    graph = model if isinstance(model, Graph) else Graph(model)
    return dict(Activations(graph, (graph.output,))(x))[graph.output]


def int8_layers(model: NcnnModel) -> dict[str, bool]:
    """Each weight layer's name and whether NCNN will run it in 8 bits (its ``int8_scale_term`` and its weights say so)."""
    return {layer.name: layer.number(8) > 0 and layer.arrays['weight'].dtype == np.int8 for layer in model.weight_layers}


def cosines(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    unit = l2_normalise(expected)
    similarity = unit @ unit.T
    assert np.median(similarity[~np.eye(len(unit), dtype=bool)]) < 0.9, 'the net does not tell faces apart'
    return (l2_normalise(found) * unit).sum(1)
