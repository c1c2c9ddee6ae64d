"""Detectors as files: ONNX with InsightFace's output contract, which ``FaceAnalysis`` loads unmodified, and NCNN.

ONNX: ``image`` float32 ``(1, 3, H, W)`` RGB (x - 127.5) / 128 of any H and W that are multiples of the largest stride; for
every stride ``score_8 (K, 1)``, then ``bbox_8 (K, 4)``, then ``kps_8 (K, 10)``; see :mod:`plugins.detectors._deploy`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from plugins.detectors._base import Detector
from plugins.detectors._deploy import DeployedDetector
from plugins.extras import require
from plugins.files import write_atomic
from plugins.preprocess import PictureNorm
from zoo.export.calibrate import Calibration, CalibrationError
from zoo.export.detector_int8 import MIN_PICTURES, DetectorQuantiser
from zoo.export.fold import fold_batchnorm
from zoo.export.graph import Graph
from zoo.export.job import origin_facts
from zoo.export.ncnn import convert_to_ncnn
from zoo.export.ncnn_int8 import make_table, quantise_ncnn
from zoo.export.onnx import INPUT, trace_onnx
from zoo.export.parity import GateError
from zoo.export.quantize import onnxruntime_int8_graph
from zoo.export.sidecar import finish_sidecar, require_own_sidecar, require_place
from zoo.jetson.decode import fit
from zoo.pipeline.pictures import read_picture
from zoo.pipeline.sample import sample_image
from zoo.runtime.detector import DetectorNet, FaceDetector, open_detector
from zoo.runtime.embedder import artefact_files, score_of, sidecar_path
from zoo.runtime.torch import TorchDetector

__all__ = ['FORMATS', 'DetectorFormat', 'export_detector', 'output_names', 'trace_detector', 'traced_size']

KINDS = ('score', 'bbox', 'kps')
PRECISIONS = ('fp32', 'int8')
_LARGEST = 1e-3  # difference of any output from PyTorch's, scores as they are, distances and offsets in strides


def export_detector(model: Detector, name: str, to: str, out: str | os.PathLike, precision: str = 'fp32',
                    calib: str | os.PathLike | None = None) -> dict:
    """Export a detector and compare the file with PyTorch: in floating point its outputs on the sample picture, at two sizes;
    in 8 bits the faces that it finds (:mod:`zoo.export.detector_int8`).

    Args:
        to: ``onnx`` (``out`` is the file) or ``ncnn`` (``out`` is a folder).
        precision: ``fp32`` or ``int8``.
        calib: folder or zip of ordinary pictures, at least 48, to calibrate 8 bits on and to judge them by.

    Returns:
        The sidecar that was written beside the artefact.

    Raises:
        GateError: an output differs by more than 1e-3, or 8 bits find other faces; nothing was left at ``out``.
        CalibrationError: 8 bits without pictures, with too few, or without faces in them.
        ValueError: another format or precision, a name for ``out`` that does not fit, or ``calib`` without 8 bits.
    """
    if to not in FORMATS:
        raise ValueError(f'a detector is exported to {" or ".join(FORMATS)}, not to {to}; the ONNX file goes into a TensorRT '
                         'bundle or a pack with --detector')
    if precision not in PRECISIONS:
        raise ValueError(f'--precision {precision}: a detector is written in {" or ".join(PRECISIONS)}')
    if precision == 'int8' and not calib:
        raise CalibrationError(f'8 bits need pictures to calibrate on: --calib PICTURES (a folder or zip of at least '
                               f'{MIN_PICTURES} ordinary pictures of people; not aligned faces)')
    if calib and precision != 'int8':
        raise ValueError(f'--calib {calib}: only 8 bits are calibrated; add --precision int8, or leave out --calib')
    form, out = FORMATS[to], Path(out)
    require_place(out, to)
    target = out if to == 'onnx' else out / f'{name}{form.suffix}'
    require_own_sidecar(target)
    folded = fold_batchnorm(model)
    shape = (3, *traced_size(model))
    with tempfile.TemporaryDirectory() as work:
        artefact = Path(work) / f'{name}{form.suffix}'
        sidecar = {'model': name, 'task': 'detection', 'format': to, 'precision': precision,
                   'preprocess': PictureNorm().to_dict(), 'strides': list(model.anchors.strides),
                   'outputs': output_names(model.anchors.strides), **origin_facts(model)}
        write_atomic(sidecar_path(artefact), json.dumps(sidecar))  # the runtime reads strides and score from here
        graph, reference = Graph(trace_detector(folded, form.rows)), TorchDetector(folded, score=score_of(sidecar))
        if precision == 'int8':
            def build(calibration: Calibration, keep: Collection[str]) -> FaceDetector:
                form.quantise(graph, shape, artefact, calibration, keep)
                return open_detector(artefact, threads=1)
            sidecar |= DetectorQuantiser(graph, form.scheme, FaceDetector(reference), calib).plan(build)
        else:
            form.write(graph, shape, artefact)
            sidecar['parity'] = _check(reference, open_detector(artefact, threads=1).net)
        for file in artefact_files(artefact):
            write_atomic(target.with_suffix(file.suffix), file.read_bytes())
    return finish_sidecar(sidecar, target)


def output_names(strides: tuple[int, ...]) -> list[str]:
    """``score_8``, ..., ``bbox_8``, ..., ``kps_8``, ...: the order is the contract, of NCNN too, the names are for people."""
    return [f'{kind}_{stride}' for kind in KINDS for stride in strides]


@dataclass(frozen=True)
class DetectorFormat:
    """How a detector is written to one format.

    Attributes:
        rows: whether the graph puts out rows, or maps that the runtime brings into rows.
        scheme: key of :data:`zoo.export.quantize.SCHEMES`.
        write, quantise: ``(graph, shape, path)`` and ``(graph, shape, path, calibration, keep)`` write it in floating point and
            in 8 bits; ``shape`` is ``(3, H, W)`` of a picture.
    """

    suffix: str
    rows: bool
    scheme: str
    write: Callable[[Graph, tuple[int, ...], Path], None]
    quantise: Callable[[Graph, tuple[int, ...], Path, Calibration, Collection[str]], None]


def _write_onnx(graph: Graph, shape: tuple[int, ...], path: Path) -> None:
    require('onnx', 'onnx').checker.check_model(graph.model)
    path.write_bytes(graph.model.SerializeToString())


def _quantise_onnx(graph: Graph, shape: tuple[int, ...], path: Path, calibration: Calibration, keep: Collection[str]) -> None:
    path.write_bytes(onnxruntime_int8_graph(graph, calibration, keep).SerializeToString())


def _write_ncnn(graph: Graph, shape: tuple[int, ...], path: Path) -> None:
    convert_to_ncnn(graph, shape).save(path)


def _quantise_ncnn(graph: Graph, shape: tuple[int, ...], path: Path, calibration: Calibration, keep: Collection[str]) -> None:
    model = convert_to_ncnn(graph, shape)
    quantise_ncnn(model, make_table(model, graph, calibration, keep)).save(path)


FORMATS = {'onnx': DetectorFormat('.onnx', True, 'onnxruntime', _write_onnx, _quantise_onnx),
            'ncnn': DetectorFormat('.param', False, 'ncnn', _write_ncnn, _quantise_ncnn)}


def traced_size(model: Detector) -> tuple[int, int]:
    """Height and width that a detector is traced with: its own, rounded up to multiples of the largest stride."""
    multiple = model.anchors.strides[-1]
    return tuple(-(-side // multiple) * multiple for side in model.input_size)


def trace_detector(model: Detector, rows: bool):
    """A detector without BatchNorm as ``onnx.ModelProto`` for pictures of any size; ``rows`` as :class:`DeployedDetector` has
    it."""
    net = DeployedDetector(model.to('cpu', memory_format=torch.contiguous_format), rows)
    names = output_names(model.anchors.strides)
    sides = {2: 'height', 3: 'width'}
    axes = {INPUT: sides, **{key: {0: 'anchors'} if rows else sides for key in names}}
    return trace_onnx(net, torch.zeros(1, 3, *traced_size(model)), names, axes)


def _check(reference: DetectorNet, candidate: DetectorNet) -> dict:
    """Largest difference of any output on the sample picture, at a landscape and at a portrait size."""
    picture, pairs = read_picture(sample_image()), []
    for view in (picture, picture[:, 300:700]):
        view = fit(view, 320, reference.strides[-1])[0][None]
        pairs += zip(reference(view), candidate(view), strict=True)
    largest = float(np.max([np.abs(a - b).max() for a, b in pairs]))  # NumPy's: Python's loses NaN
    spread = max(a.std() for a, _ in pairs)
    if not largest <= _LARGEST or not spread:
        raise GateError(f'parity gate: {candidate.name} differs from PyTorch by {largest:.1e}; the limit is {_LARGEST:.0e}')
    return {'max_abs': largest, 'allowed': _LARGEST, 'sizes': 2}
