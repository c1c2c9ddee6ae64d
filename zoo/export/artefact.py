"""One way from a trained backbone to a checked artefact: build beside the target, pass the gates, then move into place."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from plugins.data.sources import FaceSource, open_faces, read_faces
from plugins.files import sha256_file, write_atomic
from zoo.evaluate.verification import VerificationResult, VerificationSet, load_verification_set, verify
from zoo.export.ncnn import export_ncnn
from zoo.export.onnx import IR_VERSION, OPSET, export_onnx
from zoo.export.pack import PackError, check_pack, write_pack
from zoo.export.parity import GateError, Parity, check_parity
from zoo.runtime import Embedder, open_embedder
from zoo.runtime.embedder import sidecar_path
from zoo.runtime.torch import TorchEmbedder

__all__ = ['FORMATS', 'Format', 'Gates', 'export']

_PARITY_FACES = 64


@dataclass(frozen=True)
class Gates:
    """What an artefact must reach: cosine to torch on every face, and LFW-style accuracy difference (a fraction)."""

    min_cosine: float = 0.99999
    max_accuracy_drop: float = 0.0002


@dataclass(frozen=True)
class Format:
    """An artefact format: ``build(model, name, target)`` writes it, ``artefact(name, target)`` is the file to open."""

    build: Callable[[nn.Module, str, Path], None]
    artefact: Callable[[str, Path], Path]
    facts: dict


def _build_onnx(model: nn.Module, name: str, target: Path) -> None:
    export_onnx(model, target)


def _build_ncnn(model: nn.Module, name: str, target: Path) -> None:
    export_ncnn(model, target, name)


FORMATS = {
    'onnx': Format(_build_onnx, lambda name, target: target, {'opset': OPSET, 'ir_version': IR_VERSION}),
    'ncnn': Format(_build_ncnn, lambda name, target: target / f'{name}.param', {'precision': 'fp32'}),
}


def export(model: nn.Module, name: str, to: str, out: str | os.PathLike, gate_set: str | os.PathLike | None = None,
           gates: Gates | None = None, licence: str = '', detector: Path | None = None) -> dict:
    """Export a backbone and check the result.

    Args:
        model: with ``preprocess``, as :func:`zoo.load` returns it.
        to: ``onnx`` (``out`` is the file), ``ncnn`` (``out`` is a folder) or ``pack`` (``out`` is FaceAnalysis's root).
        gate_set: verification set to measure torch and the artefact on; its faces also serve the parity check. Without it
            parity is checked on the sample faces that the ``insightface`` package ships, and no accuracy is claimed.

    Returns:
        The sidecar that was written beside the artefact: parity, accuracies, preprocessing, versions, hashes.

    Raises:
        GateError: a gate failed; nothing was left at ``out``.
        PackError: InsightFace could not use the model.
    """
    if to == 'pack':
        return _export_pack(model, name, Path(out), gate_set, gates, licence, detector)
    form, out = FORMATS[to], Path(out)
    data = load_verification_set(gate_set) if gate_set else None
    with _staging(out) as stage:
        form.build(model, name, stage)
        artefact = form.artefact(name, stage)
        sidecar = {'model': name, 'format': to, **form.facts, 'num_features': model.num_features,
                   'preprocess': model.preprocess.to_dict(), 'input': f'{model.input_size[0]}x{model.input_size[1]}'}
        write_atomic(sidecar_path(artefact), json.dumps(sidecar))  # the runtime reads its preprocessing from here
        reference, candidate = TorchEmbedder(model, model.preprocess, name), open_embedder(artefact)
        sidecar |= _measure(reference, candidate, data, gates or Gates())
        files = sorted({artefact, artefact.with_suffix('.bin')} & set(artefact.parent.iterdir()))
        sidecar |= {'sha256': {_final_name(file, stage, out): sha256_file(file) for file in files},
                    'bytes': sum(file.stat().st_size for file in files), 'licence': licence, 'versions': _versions(),
                    'created': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')}
        write_atomic(sidecar_path(artefact), json.dumps(sidecar, indent=2) + '\n')
    return sidecar


def _measure(reference: Embedder, candidate: Embedder, data: VerificationSet | None, gates: Gates) -> dict:
    faces = _faces_of(data.faces, reference.preprocess.input_size) if data else sample_faces()
    report: dict = {'parity': check_parity(reference, candidate, faces).require(gates.min_cosine).to_dict(),
                    'gates': vars(gates)}
    if data:
        torch_result, result = verify(reference, data, progress=True), verify(candidate, data, progress=True)
        report['verification'] = {'set': data.name, 'flip': True, 'torch': torch_result.to_dict(), 'artefact': result.to_dict()}
        _require_accuracy(torch_result, result, gates)
    return report


def _require_accuracy(reference: VerificationResult, found: VerificationResult, gates: Gates) -> None:
    drop = reference.accuracy - found.accuracy
    if abs(drop) > gates.max_accuracy_drop + 1e-12:
        raise GateError(f'accuracy gate: {100 * found.accuracy:.2f} % against {100 * reference.accuracy:.2f} % of torch; '
                        f'allowed are {100 * gates.max_accuracy_drop:.2f} points')


def _export_pack(model, name, root, gate_set, gates, licence, detector) -> dict:
    check_pack(root, name, model.preprocess, detector)
    with tempfile.TemporaryDirectory() as work:
        onnx_path = Path(work) / f'{name}.onnx'
        sidecar = export(model, name, 'onnx', onnx_path, gate_set, gates, licence)
        folder = write_pack(root, name, onnx_path, model.preprocess, model.num_features,
                            licence or 'No licence stated: research use only.', detector)
    _check_pack(folder / f'{name}.onnx', model)
    sidecar |= {'format': 'pack', 'detector': bool(detector)}
    write_atomic(folder / f'{name}.json', json.dumps(sidecar, indent=2) + '\n')
    return sidecar


def _check_pack(path: Path, model: nn.Module) -> None:
    """Load the recogniser with the installed InsightFace, if there is one, as its users will."""
    try:
        from insightface.model_zoo import get_model
    except ImportError:
        return
    loaded = get_model(str(path), providers=['CPUExecutionProvider'])
    if type(loaded).__name__ != 'ArcFaceONNX' or (loaded.input_mean, loaded.input_std) != (127.5, 127.5):
        raise PackError(f'{path}: InsightFace takes it for {type(loaded).__name__}; please report the model')


def sample_faces() -> np.ndarray:
    """Aligned faces of the group photo that the insightface package ships, uint8 RGB ``(N, 112, 112, 3)``, with mirrors."""
    from zoo.pipeline.sample import sample_crops
    crops = sample_crops()
    return np.concatenate([crops, crops[:, :, ::-1]])


def _faces_of(source: FaceSource | str, size: int) -> np.ndarray:
    source = open_faces(source) if isinstance(source, str) else source
    rows = np.linspace(0, len(source) - 1, min(_PARITY_FACES, len(source))).astype(int)
    return read_faces(source, rows, size)


@contextlib.contextmanager
def _staging(out: Path):
    """A place beside ``out`` that replaces it only when everything went well."""
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f'.{out.name}.', dir=out.parent))
    stage = work / out.name
    try:
        if not out.suffix:
            stage.mkdir()
        yield stage
        if stage.is_dir():
            out.mkdir(exist_ok=True)
            for file in stage.iterdir():
                os.replace(file, out / file.name)
        else:
            for file in work.iterdir():
                os.replace(file, out.parent / file.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _final_name(file: Path, stage: Path, out: Path) -> str:
    return out.name if file == stage else file.name


def _versions() -> dict[str, str]:
    found = {}
    for package in ('facezoo', 'torch', 'onnx', 'onnxsim', 'onnxruntime', 'ncnn', 'pnnx', 'numpy'):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


__all__ += ['Parity', 'sample_faces']
