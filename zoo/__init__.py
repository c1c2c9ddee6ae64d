"""facezoo's hub: trained lightweight face recognisers, what is known of them, and the way to devices.

    >>> import zoo
    >>> model = zoo.load('fdfacenet')          # torch module in evaluation mode, trained weights
    >>> embedder = zoo.open('fdfacenet.onnx')  # any runtime: aligned uint8 faces in, embeddings out

From pictures to names: :mod:`zoo.pipeline`.

Importing this package imports nothing: neither torch nor a runtime, nor NumPy. It switches onnxruntime's telemetry off
(``ORT_DISABLE_TELEMETRY``), where that is not imported yet.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zoo.lazy import lazy_names

if TYPE_CHECKING:
    from plugins.backbones._base import Backbone
    from zoo.model_card import ModelCard, card, list_models

__version__ = '0.1.0'
__all__ = ['ModelCard', 'card', 'create', 'list_models', 'load', 'open', 'profile', 'verify']

# From 1.29 on onnxruntime tells its maker about every session (a number for the device, names of file and graph), unless this
# is set before it is imported. What a camera's program does is nobody's business; whoever wants to report sets it to 0.
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')

__getattr__ = lazy_names(globals(), {
    'ModelCard': 'zoo.model_card', 'card': 'zoo.model_card', 'list_models': 'zoo.model_card', 'profile': 'zoo.complexity',
    'verify': 'zoo.evaluate.verification'})


def create(name: str, **kwargs) -> Backbone:
    """An untrained backbone; see :func:`plugins.registry.create_backbone`."""
    from plugins.registry import create_backbone
    return create_backbone(name, **kwargs)


def load(name: str | os.PathLike, weights: str | os.PathLike | None = None, network: str | None = None, **kwargs) -> Backbone:
    """A trained backbone in evaluation mode, with its preprocessing as ``model.preprocess`` and, where a card knows the
    weights, their full name as ``model.origin`` (``fdfacenet.default``).

    Args:
        name: a model (``fdfacenet``), a model and a weights tag (``fdfacenet.default``), or a weights file.
        weights: a weights file to use instead of the card's: facezoo's, a PyTorch state dict (arcface_torch's ``model.pt``),
            or MXNet's ``NAME-0000.params`` with ``NAME-symbol.json`` beside it.
        network: backbone of a weights file that does not say it itself.
        kwargs: options of the backbone (``num_features``, ``width``, ...).

    Raises:
        CardError, KeyError: unknown model.
        HubError: the weights cannot be had or their hash is wrong.
        WeightsError: the file is damaged or of another architecture.
        LookupError: the model has no trained weights.
        ValueError: two weights files, or another network than the name's.
    """
    from zoo.loading import load_model
    return load_model(name, weights, network, kwargs)


def open(model: str | os.PathLike, threads: int = 0, **options):
    """A recogniser as an :class:`zoo.runtime.Embedder`; see :func:`zoo.runtime.open_embedder`."""
    from zoo.runtime import open_embedder
    return open_embedder(model, threads, **options)
