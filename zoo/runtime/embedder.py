"""The Embedder protocol, and the function that opens one by the kind of file."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from plugins.extras import MissingExtra
from plugins.files import sha256_file
from plugins.preprocess import Preprocess
from zoo.model_card import card

__all__ = ['Embedder', 'artefact_files', 'embed_batches', 'open_embedder', 'read_sidecar', 'runtime_name', 'runtime_of',
           'score_of', 'sidecar_path', 'usable_cores']

_OPENERS = {'onnx': 'OnnxEmbedder', 'ncnn': 'NcnnEmbedder', 'torch': 'open_torch'}


class Embedder(Protocol):
    """Aligned faces to embeddings.

    Calling it takes uint8 RGB ``(N, S, S, 3)`` with ``S = preprocess.input_size`` and returns float32 ``(N, num_features)``,
    not L2-normalised.
    """

    name: str
    preprocess: Preprocess
    num_features: int

    def __call__(self, faces: np.ndarray) -> np.ndarray: ...


def open_embedder(model: str | os.PathLike, threads: int = 0, network: str | None = None, **options) -> Embedder:
    """Open a model with the runtime that its file asks for.

    Args:
        model: a zoo name (``fdfacenet``: torch), ``.onnx`` (onnxruntime), ``.param`` or a folder with one (NCNN),
            ``.safetensors``/``.pt`` (torch).
        threads: 0 leaves the choice to the runtime.
        network: backbone of a weights file that does not say it.
        options: passed to the runtime.

    Raises:
        FileNotFoundError, ValueError, KeyError: nothing can be opened under that name; the message says why.
        MissingExtra: its runtime is not installed; the message says what to install, or how to do without.
        RuntimeError: its runtime cannot run it, or not on what ``providers`` asks for.
    """
    opener = runtime_of(model, _OPENERS)
    if network:
        if runtime_name(model) != 'torch':
            raise ValueError(f'{model}: an exported file holds its backbone; leave out --network {network}')
        options['network'] = network
    return opener(model, threads=threads, **options)


def runtime_of(model: str | os.PathLike, openers: Mapping[str, str]) -> Callable:
    """What opens a model, from the module of the runtime that its file asks for; no other runtime is imported.

    Args:
        openers: by runtime (``onnx``, ``ncnn``, ``torch``), a name in its module.

    Raises:
        MissingExtra: the model needs PyTorch, which is not installed; the message says how to do without.
        CardError: the same, and there is no such model.
    """
    path, runtime = Path(model), runtime_name(model)
    try:
        return getattr(importlib.import_module(f'zoo.runtime.{runtime}'), openers[runtime])
    except ModuleNotFoundError as error:
        if error.name != 'torch':
            raise
        if not path.exists():
            card(str(model))  # says so when there is no such model either
        raise MissingExtra(f"{model}: it needs PyTorch, which is not installed: pip install 'facezoo[torch]'. "
                           f'To do without it, run `facezoo export {model} --to onnx --out {path.stem}.onnx` where PyTorch is, '
                           f'copy {path.stem}.onnx and {path.stem}.json, and name the .onnx file') from None


def runtime_name(model: str | os.PathLike) -> str:
    """``onnx``, ``ncnn`` or ``torch``: what a model's file asks for; a name of the zoo is torch's."""
    path = Path(model)
    if path.suffix == '.onnx':
        return 'onnx'
    return 'ncnn' if path.suffix == '.param' or (path.is_dir() and any(path.glob('*.param'))) else 'torch'


def embed_batches(embedder: Embedder, batches: Iterable[np.ndarray], flip: bool = True
                  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Embed a stream of batches of uint8 RGB faces, in memory of one batch.

    Args:
        flip: add the embedding of the mirrored face (test-time augmentation, as InsightFace evaluates).

    Yields:
        For each batch, float64 ``(N, D)`` sums (not normalised) and ``(N, 1 + flip)`` norms of the single embeddings.
    """
    for faces in batches:
        views = [embedder(faces).astype(np.float64)]
        if flip:
            views.append(embedder(np.ascontiguousarray(faces[:, :, ::-1])).astype(np.float64))
        yield sum(views[1:], views[0]), np.stack([np.linalg.norm(view, axis=1) for view in views], 1)


def sidecar_path(path: str | os.PathLike) -> Path:
    """``model.onnx -> model.json``: what an artefact is, beside the artefact."""
    return Path(path).with_suffix('.json')


def artefact_files(path: Path) -> tuple[Path, ...]:
    """The files of an artefact, by the one that is opened: NCNN's ``.param`` has its weights in a ``.bin``."""
    return (path, path.with_suffix('.bin')) if path.suffix == '.param' else (path,)


def read_sidecar(path: str | os.PathLike) -> tuple[dict, Preprocess]:
    """The sidecar of an artefact and the preprocessing of a recogniser; InsightFace's convention when there is none.

    Raises:
        ValueError: it is no sidecar, or was not written with this artefact.
    """
    sidecar = sidecar_path(path)
    if not sidecar.exists():
        return {}, Preprocess()
    try:
        data = json.loads(sidecar.read_text())
        if not isinstance(data, dict):
            raise TypeError('it is not a JSON object')
        hashes = data.get('sha256', {})
        if not isinstance(hashes, dict):
            raise TypeError('sha256 is not a JSON object')
        preprocess = Preprocess(**data.get('preprocess', {}) if data.get('task') != 'detection' else {})
    except (ValueError, TypeError) as error:
        raise ValueError(f'{sidecar}: not a facezoo sidecar ({error}); export the model again') from None
    _check_hashes(Path(path), hashes)
    return data, preprocess


def _check_hashes(path: Path, hashes: Mapping[str, str]) -> None:
    """Refuse files of an artefact that are not those its sidecar was written with. Files that were renamed together with it
    are known by their suffix. Without hashes nothing is refused: exporters open what they write before it has any."""
    by_suffix = {Path(name).suffix: digest for name, digest in hashes.items()}
    for file in artefact_files(path):
        stated = hashes.get(file.name, by_suffix.get(file.suffix))
        if hashes and not stated:
            raise ValueError(f'{file}: {sidecar_path(path).name} beside it belongs to another export ({", ".join(hashes)}); '
                             'export again, to another name or folder')
        if stated and file.is_file() and sha256_file(file) != stated:
            raise ValueError(f'{file}: its SHA-256 is not that in {sidecar_path(path).name} beside it; the file is damaged, or '
                             'of another export: copy all files of the export again, or export again')


def score_of(sidecar: Mapping) -> float | None:
    """Lowest score of a face, as a detector's sidecar has it from the card of its weights; None when it does not say."""
    return sidecar.get('thresholds', {}).get('score')


def usable_cores() -> int:
    """Cores that this process may use; in a container or under ``taskset`` fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
