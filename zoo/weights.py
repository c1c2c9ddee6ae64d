"""Reading and writing weights files safely, and putting them into a backbone strictly."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from plugins.files import atomic_path
from zoo.convert import Misfit, convert_state
from zoo.mxnet import MXNetError, read_mxnet

__all__ = ['WeightsError', 'describe', 'load_weights', 'read_state', 'save_weights', 'weights_digest']

_LOG = logging.getLogger(__name__)


class WeightsError(ValueError):
    """A weights file is damaged, unsafe, or of another architecture."""


def save_weights(path: str | os.PathLike, model: nn.Module, network: str, network_args: dict | None = None) -> None:
    """Write the state dict as safetensors with the facts needed to rebuild the model in the file's own header."""
    from safetensors.torch import save_file
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    facts = {'network': network, 'network_args': network_args or {}}
    if hasattr(model, 'num_features'):  # a detector has no embedding
        facts['num_features'] = model.num_features
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={'facezoo': json.dumps(facts, sort_keys=True)})


def weights_digest(model: nn.Module) -> str:
    """What a network's weights are known by, whatever file they came from: 16 hexadecimal digits over names and values."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def describe(path: str | os.PathLike) -> dict:
    """What :func:`save_weights` noted: ``network``, ``num_features``, ``network_args``; empty for other files.

    Raises:
        WeightsError: a damaged safetensors file, or one whose header says something else.
    """
    if Path(path).suffix != '.safetensors':
        return {}
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, 'pt') as file:
            facts = json.loads((file.metadata() or {}).get('facezoo', '{}'))
        for key, kind in {'network': str, 'network_args': dict, 'num_features': int}.items():
            if not isinstance(facts, dict) or not isinstance(facts.get(key, kind()), kind):
                raise ValueError(f'the entry of facezoo in its header is {facts!r:.80}')
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f'{path}: not a whole safetensors file ({error}); copy it again') from None
    return facts


def read_state(path: str | os.PathLike) -> dict[str, Tensor]:
    """The state dict in a ``.safetensors``, a PyTorch file (``weights_only``: nothing in it is executed) or an MXNet
    ``.params`` with its ``-symbol.json``.

    A state dict under ``state_dict``, ``model``, ``net_state_dict`` or ``state_dict_backbone`` is found; a ``module.`` prefix
    is dropped. Where some tensors are called ``backbone.``, those are the network and the others (a margin head) are left out.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: damaged, or more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such weights file')
    if path.suffix == '.params':
        try:
            return read_mxnet(path)
        except MXNetError as error:
            raise WeightsError(str(error)) from None
    if path.suffix == '.safetensors':
        from safetensors import SafetensorError
        from safetensors.torch import load_file
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f'{path}: not a whole safetensors file ({error}); copy it again') from None
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) or 'TorchScript' in str(error):  # torch advises to trust the file
            raise WeightsError(f'{path}: cannot be read as weights: not a PyTorch file, or one with more than tensors in it '
                               '(such as a whole model); save its state_dict(), or give a file of another kind its own '
                               'suffix (.safetensors, .params)') from None
        reason = next(iter(str(error).splitlines()), 'it is empty or cut short')
        raise WeightsError(f'{path}: cannot be read as weights ({type(error).__name__}: {reason}); copy it again') from None
    for key in ('state_dict_backbone', 'state_dict', 'net_state_dict', 'model'):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f'{path}: holds no state dict')
    for prefix in ('module.', 'backbone.'):
        inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if inner and len(inner) < len(state):
            _LOG.info('%s: %d tensors outside %s are left out', path, len(state) - len(inner), prefix)
        state = inner or state
    return state


def load_weights(model: nn.Module, path: str | os.PathLike) -> None:
    """Copy the weights in ``path`` into ``model``, all of them and nothing else.

    Tensors are matched by name; a file with other names is matched by structure (:mod:`zoo.convert`).

    Raises:
        WeightsError: the first tensor that is missing, unknown or of another shape.
    """
    state, own = read_state(path), model.state_dict()
    if hasattr(model, 'adopt'):
        state = model.adopt(state)
    elif 2 * len(state.keys() & own.keys()) < len(own):
        if Path(path).suffix == '.safetensors':
            raise WeightsError(f'{path}: its tensors ({next(iter(state), "none")!r}, ...) are not named as those of '
                               f'{type(model).__name__}, and safetensors does not keep the order that would match them; '
                               'load the .pt or .pth file it was made from')
        try:
            state = convert_state(model, state)
        except Misfit as error:
            raise WeightsError(f'{path}: weights of another architecture: {error}') from None
    for key, value in own.items():
        if key not in state:
            raise WeightsError(f'{path}: tensor {key!r} of {type(model).__name__} is missing: weights of another architecture '
                               f'({len(state)} tensors, the first is {next(iter(state), "none")!r})')
        if state[key].shape != value.shape:
            raise WeightsError(f'{path}: tensor {key!r} is {tuple(state[key].shape)}, {type(model).__name__} needs '
                               f'{tuple(value.shape)}: another width, embedding or input size')
    extra = [key for key in state if key not in own]
    if extra:
        raise WeightsError(f'{path}: tensor {extra[0]!r} has no place in {type(model).__name__}')
    model.load_state_dict(state)
