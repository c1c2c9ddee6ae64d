"""Detectors as files: ONNX with InsightFace's output contract, which ``FaceAnalysis`` loads unmodified, and NCNN.

ONNX: ``image`` float32 ``(1, 3, H, W)`` RGB (x - 127.5) / 128 of any H and W that are multiples of the largest stride; for
every stride ``score_8 (K, 1)``, then ``bbox_8 (K, 4)``, then ``kps_8 (K, 10)``; see :mod:`plugins.detectors._deploy`.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from plugins.detectors._base import Detector
from plugins.detectors._deploy import DeployedDetector
from plugins.extras import require
from plugins.files import sha256_file, write_atomic
from zoo.export.fold import fold_batchnorm
from zoo.export.job import origin_facts
from zoo.export.ncnn import run_pnnx
from zoo.export.onnx import INPUT, trace_onnx
from zoo.export.parity import GateError
from zoo.jetson.decode import fit
from zoo.runtime.detector import DetectorNet
from zoo.runtime.embedder import sidecar_path
from zoo.runtime.torch import TorchDetector

__all__ = ['export_detector', 'output_names']

KINDS = ('score', 'bbox', 'kps')
_LARGEST = 1e-3  # difference of any output from PyTorch's, scores as they are, distances and offsets in strides


def export_detector(model: Detector, name: str, to: str, out: str | os.PathLike) -> dict:
    """Export a detector and compare the file with PyTorch on the sample picture, at two sizes.

    Args:
        to: ``onnx`` (``out`` is the file) or ``ncnn`` (``out`` is a folder).

    Returns:
        The sidecar that was written beside the artefact.

    Raises:
        GateError: an output differs by more than 1e-3; nothing was left at ``out``.
        ValueError: another format.
    """
    if to not in _FORMATS:
        raise ValueError(f'a detector is exported to {" or ".join(_FORMATS)}, not to {to}; the ONNX file goes into a TensorRT '
                         'bundle or a pack with --detector')
    folded, out = fold_batchnorm(model), Path(out)
    with tempfile.TemporaryDirectory() as work:
        sidecar = {'model': name, 'task': 'detection', 'format': to, 'strides': list(model.anchors.strides),
                   **origin_facts(model)}
        artefact = _FORMATS[to](folded, name, Path(work))
        write_atomic(sidecar_path(artefact), json.dumps(sidecar))
        sidecar['parity'] = _check(TorchDetector(folded), _open(artefact))
        target = out if to == 'onnx' else out / artefact.name
        files = [file for file in (artefact, artefact.with_suffix('.bin')) if file.exists()]
        for file in files:
            write_atomic(target.with_suffix(file.suffix), file.read_bytes())
        sidecar |= {'sha256': {target.with_suffix(file.suffix).name: sha256_file(file) for file in files},
                    'bytes': sum(file.stat().st_size for file in files)}
        write_atomic(sidecar_path(target), json.dumps(sidecar, indent=2) + '\n')
    return sidecar


def output_names(strides: tuple[int, ...]) -> list[str]:
    """``score_8``, ..., ``bbox_8``, ..., ``kps_8``, ...: the order is the contract, the names are for people."""
    return [f'{kind}_{stride}' for kind in KINDS for stride in strides]


def _write_onnx(model: Detector, name: str, folder: Path) -> Path:
    onnx, path = require('onnx', 'onnx'), folder / f'{name}.onnx'
    path.write_bytes(_trace(model, rows=True).SerializeToString())
    onnx.checker.check_model(str(path))
    return path


def _write_ncnn(model: Detector, name: str, folder: Path) -> Path:
    """Through pnnx; the maps are put out as they are, the runtime brings them into rows."""
    param = run_pnnx(_trace(model, rows=False), (1, 3, *_traced_size(model)), folder)
    for suffix in ('.param', '.bin'):
        param.with_suffix(suffix).rename(folder / f'{name}{suffix}')
    return folder / f'{name}.param'


_FORMATS = {'onnx': _write_onnx, 'ncnn': _write_ncnn}


def _traced_size(model: Detector) -> tuple[int, int]:
    multiple = model.anchors.strides[-1]
    return tuple(-(-side // multiple) * multiple for side in model.input_size)


def _trace(model: Detector, rows: bool):
    net = DeployedDetector(model.to('cpu', memory_format=torch.contiguous_format), rows)
    names = output_names(model.anchors.strides)
    sides = {2: 'height', 3: 'width'}
    axes = {INPUT: sides, **{key: {0: 'anchors'} if rows else sides for key in names}}
    return trace_onnx(net, torch.zeros(1, 3, *_traced_size(model)), names, axes)


def _open(artefact: Path) -> DetectorNet:
    from zoo.runtime.detector import open_detector
    return open_detector(artefact, threads=1).net


def _check(reference: DetectorNet, candidate: DetectorNet) -> dict:
    """Largest difference of any output on the sample picture, at a landscape and at a portrait size."""
    from plugins.preprocess import decode_image
    from zoo.pipeline.sample import sample_image
    path = sample_image()
    picture = decode_image(path.read_bytes(), str(path))
    largest = spread = 0.0
    for view in (picture, picture[:, 300:700]):
        view = fit(view, 320, reference.strides[-1])[0][None]
        pairs = list(zip(reference(view), candidate(view), strict=True))
        largest = max(largest, *(float(np.abs(a - b).max()) for a, b in pairs))
        spread = max(spread, *(float(a.std()) for a, _ in pairs))
    if not largest <= _LARGEST or not spread:
        raise GateError(f'parity gate: {candidate.name} differs from PyTorch by {largest:.1e}; allowed are {_LARGEST:.0e}')
    return {'max_abs': largest, 'allowed': _LARGEST, 'sizes': 2}
