"""From a name or a file to a trained network, recogniser or detector."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from plugins.backbones._base import Backbone
from plugins.preprocess import PictureNorm, Preprocess
from plugins.registry import create_backbone, create_detector
from zoo.hub import resolve
from zoo.model_card import WEIGHTS_SUFFIXES, card, has_card, preprocess_of, refuse_file, weights_of
from zoo.weights import WeightsError, describe, load_weights, read_state

__all__ = ['build_any', 'load_model']

# task: what builds its networks
_CREATE = {'recognition': create_backbone, 'detection': create_detector}


def load_model(name: str | os.PathLike, weights: str | os.PathLike | None, network: str | None, kwargs: dict) -> Backbone:
    """See :func:`zoo.load`."""
    path = Path(name)
    if path.suffix in WEIGHTS_SUFFIXES:
        if weights is not None:
            raise ValueError(f'{name} and {weights}: both are weights files; name one of them, alone or after a backbone')
        return _from_file(path, network, kwargs)
    if network not in (None, str(name).partition('.')[0]):
        raise ValueError(f'network={network!r}: {name!r} already says its backbone; leave out the network (--network)')
    if weights is not None:
        return _from_file(Path(weights), str(name), kwargs)
    return _from_card(str(name), kwargs)


def build_any(name: str) -> Backbone:
    """A model by name or file, trained if there are weights, else untrained: for timing, where weights do not matter."""
    if Path(name).suffix in WEIGHTS_SUFFIXES or weights_of(name):
        return load_model(name, None, None, {})
    refuse_file(name)
    create = _builder(name)
    model = create(name).eval()
    model.preprocess = _at_its_size(model, preprocess_of(name))
    return model


def _builder(network: str) -> Callable:
    """What builds a network; one without a card, a user's own, is a recogniser."""
    return _CREATE[card(network).task] if has_card(network) else create_backbone


def _from_card(name: str, kwargs: dict) -> Backbone:
    model_card = card(name)
    tag = name.partition('.')[2] or 'default'
    if tag not in model_card.weights:
        have = f'tags: {", ".join(model_card.weights)}' if model_card.weights else 'it has none yet'
        build = 'zoo.create' if model_card.task == 'recognition' else 'plugins.registry.create_detector'
        raise LookupError(f'{model_card.name} has no trained weights {tag!r} ({have}); build it untrained with '
                          f'{build}({model_card.name!r}), or give weights=FILE')
    entry = model_card.weights[tag]
    features = {} if entry.num_features is None else {'num_features': entry.num_features}
    model = _CREATE[model_card.task](model_card.name, **{**features, **entry.network_args, **kwargs})
    return _finish(model, resolve(entry), model_card.preprocess, f'{model_card.name}.{tag}')


def _from_file(path: Path, network: str | None, kwargs: dict) -> Backbone:
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such weights file')
    facts = describe(path)
    if network and facts.get('network', network) != network:
        raise WeightsError(f'{path}: weights of {facts["network"]!r}, asked for {network!r}')
    network = network or facts.get('network')
    if network is None:
        raise WeightsError(f'{path} does not say which backbone it belongs to; give network=NAME (--network NAME)')
    options = {**facts.get('network_args', {}), **kwargs}
    create = _builder(network)
    if create is create_backbone and 'num_features' in facts:
        options.setdefault('num_features', facts['num_features'])
    model = create(network, **options)
    if create is create_backbone and 'num_features' not in options:
        size = _embedding_size(model, path)
        model = model if size == model.num_features else create(network, num_features=size, **options)
    return _finish(model, path, preprocess_of(network))


def _embedding_size(model: Backbone, path: Path) -> int:
    """Length of the embedding in a file that does not say it, from its last tensor; the default where that is odd."""
    own, given = (next((value.shape[0] for value in reversed(list(state.values())) if value.ndim), 0)
                  for state in (model.state_dict(), read_state(path)))
    return model.num_features * given // own if given and not model.num_features * given % own else model.num_features


def _finish(model: Backbone, path: Path, preprocess: Preprocess | PictureNorm, origin: str | None = None) -> Backbone:
    model.preprocess, model.origin = _at_its_size(model, preprocess), origin
    load_weights(model, path)  # another project's layout may bring its own preprocessing
    return model.eval()


def _at_its_size(model: Backbone, preprocess: Preprocess | PictureNorm) -> Preprocess | PictureNorm:
    """What a network built for another size than its card's eats; a detector takes any size, a face is square."""
    height, width = model.input_size
    fixed = isinstance(preprocess, Preprocess) and height == width
    return dataclasses.replace(preprocess, input_size=height) if fixed else preprocess
