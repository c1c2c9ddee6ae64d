"""One way from a trained backbone to a checked artefact: build beside the target, pass the gates, then move into place."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from plugins.files import staged_files, write_atomic
from zoo.export.gates import Gates, Judge
from zoo.export.job import Job
from zoo.export.ncnn import write_ncnn, write_ncnn_int8
from zoo.export.onnx import IR_VERSION, OPSET, export_onnx
from zoo.export.pack import check_pack, load_as_insightface, write_pack
from zoo.export.quantize import onnxruntime_int8_graph
from zoo.export.search import Int8Plan
from zoo.export.sidecar import SUFFIXES, finish_sidecar, require_own_sidecar, require_place
from zoo.export.target import TargetError, target
from zoo.export.tensorrt import write_bundle
from zoo.runtime import open_embedder
from zoo.runtime.embedder import sidecar_path
from zoo.runtime.torch import TorchEmbedder

__all__ = ['FORMATS', 'Format', 'export', 'export_job']


@dataclass(frozen=True)
class Format:
    """An artefact format.

    Attributes:
        precisions: those it can be written in, the default first.
        build: ``build(job, precision, stage)`` writes it; returns its own entries of the sidecar, and how it was
            quantised.
        artefact: ``artefact(name, stage)`` is the file to open.
    """

    precisions: tuple[str, ...]
    build: Callable[[Job, str, Path], tuple[dict, Int8Plan | None]]
    artefact: Callable[[str, Path], Path]


def _build_onnx(job: Job, precision: str, stage: Path) -> tuple[dict, Int8Plan | None]:
    plan = None
    if precision == 'int8':
        plan = job.quantiser.plan('onnxruntime')
        write_atomic(stage, onnxruntime_int8_graph(job.quantiser.graph, plan.calibration, plan.keep).SerializeToString())
    else:
        export_onnx(job.model, stage)
    return {'opset': OPSET, 'ir_version': IR_VERSION}, plan


def _build_ncnn(job: Job, precision: str, stage: Path) -> tuple[dict, Int8Plan | None]:
    plan = None
    if precision == 'int8':
        plan = write_ncnn_int8(job.quantiser, stage, job.name)
    else:
        write_ncnn(job.graph, precision, stage, job.name)
    variants = (job.target or target('x86')).runtime.variants
    return {'options': {**variants[precision], **(job.target.options if job.target else {})}}, plan


FORMATS = {
    'onnx': Format(('fp32', 'int8'), _build_onnx, lambda name, stage: stage),
    'ncnn': Format(('fp32', 'fp16', 'bf16', 'int8'), _build_ncnn, lambda name, stage: stage / f'{name}.param'),
}


def export(model: nn.Module, name: str, to: str, out: str | os.PathLike, gate_set: str | os.PathLike | None = None,
           gates: Gates | None = None, detector: Path | None = None, precision: str | None = None,
           device: str | None = None, calib: str | os.PathLike | None = None) -> dict:
    """Export a backbone and check the result.

    Args:
        model: with ``preprocess`` and ``origin``, as :func:`zoo.load` returns it; its licence and thresholds go along.
        to: ``onnx`` (``out`` is the file), ``ncnn`` (``out`` is a folder), ``tensorrt`` (``out`` is the bundle's tar) or
            ``pack`` (``out`` is FaceAnalysis's root).
        gate_set: verification set to measure torch and the artefact on; its faces also serve the parity check. Without it
            parity is checked on the sample faces that the ``insightface`` package ships, and no accuracy is claimed.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``; of a bundle several, with commas.
        device: name of a target, see :func:`zoo.export.target.list_targets`.
        calib: aligned faces to calibrate 8 bits on; a bundle measures the FP16 range on them, too.
        detector: ONNX detector that goes into the pack or the bundle.

    Returns:
        The sidecar that was written beside the artefact: parity, accuracies, preprocessing, versions, hashes.

    Raises:
        GateError: a gate failed; nothing was left at ``out``.
        CalibrationError, TargetError: what was asked for needs faces, or another device.
        PackError: InsightFace could not use the model.
        ValueError: another format or precision, a name for ``out`` that does not fit, or ``calib`` without 8 bits.
    """
    if to == 'pack' and precision not in (None, 'fp32'):
        raise ValueError(f"--precision {precision}: a pack is written in fp32, which is what InsightFace's users run")
    job = Job(model, name, Judge(TorchEmbedder(model, model.preprocess, name), gate_set), target(device) if device else None,
              calib, gates)
    if calib and (to == 'pack' or (to in FORMATS and _precision(job, to, precision) != 'int8')):
        raise ValueError(f'--calib {calib}: only 8 bits are calibrated; add --precision int8 (onnx, ncnn), or leave out '
                         '--calib')
    return _export_pack(job, Path(out), detector) if to == 'pack' else export_job(job, to, out, precision, detector)


def export_job(job: Job, to: str, out: str | os.PathLike, precision: str | None = None, detector: Path | None = None) -> dict:
    """One artefact of a job, whose measurements further artefacts share; see :func:`export`."""
    if to == 'tensorrt':
        require_own_sidecar(Path(out))
        with _staging(Path(out), to) as stage:
            return finish_sidecar(write_bundle(job, precision, stage, detector), stage)
    if to not in FORMATS:
        raise ValueError(f'{to!r}: a recogniser is exported to {", ".join((*SUFFIXES, "pack"))}')
    if detector:
        raise ValueError(f'--detector: {to} holds the recogniser only; export the detector to a file of its own')
    return _export_file(job, to, Path(out), precision)


def _export_file(job: Job, to: str, out: Path, precision: str | None) -> dict:
    form, kind = FORMATS[to], job.target.runtime.kind if job.target else None
    if to == 'ncnn' and kind == 'tensorrt':
        raise TargetError(f'--target {job.target.name} runs TensorRT; leave out --to ncnn for its bundle, or --target for an '
                          'NCNN model')
    precision = _precision(job, to, precision)
    if precision not in form.precisions:
        raise ValueError(f'--precision {precision}: {to} is written in {", ".join(form.precisions)}')
    verdict = job.target.verdict(precision) if job.target else ''
    require_own_sidecar(form.artefact(job.name, out))
    with _staging(out, to) as stage:
        facts, plan = form.build(job, precision, stage)
        artefact = form.artefact(job.name, stage)
        sidecar = {'format': to, 'precision': precision, 'target': job.target.name if job.target else None, 'verdict': verdict,
                   **job.facts, **facts, **({'quantisation': plan.to_dict()} if plan else {})}
        write_atomic(sidecar_path(artefact), json.dumps(sidecar))  # the runtime reads its preprocessing from here
        sidecar |= job.pass_gates(open_embedder(artefact), precision, plan)
        return finish_sidecar(sidecar, artefact)


def _precision(job: Job, to: str, named: str | None) -> str:
    """The precision that was named, else the target's where that is what it runs, else the format's."""
    own = job.target and job.target.runtime.kind == to
    return named or (job.target.default if own else FORMATS[to].precisions[0])


def _export_pack(job: Job, root: Path, detector: Path | None) -> dict:
    check_pack(root, job.name, job.model.preprocess, detector)
    with tempfile.TemporaryDirectory() as work:
        onnx_path = Path(work) / f'{job.name}.onnx'
        sidecar = _export_file(job, 'onnx', onnx_path, 'fp32')
        load_as_insightface(onnx_path)
        folder = write_pack(root, job.name, onnx_path, job.model.preprocess, job.model.num_features,
                            job.facts['licence'] or 'No licence stated: research use only.', detector)
    sidecar |= {'format': 'pack', 'detector': bool(detector)}
    write_atomic(folder / f'{job.name}.json', json.dumps(sidecar, indent=2) + '\n')
    return sidecar


@contextlib.contextmanager
def _staging(out: Path, to: str):
    """A place beside the files of ``out`` that replace it only when everything went well.

    Raises:
        ValueError: as :func:`zoo.export.sidecar.require_place`.
    """
    require_place(out, to)
    exists = out.is_dir()
    with staged_files(out if exists else out.parent) as work:
        stage = work if exists else work / out.name
        if not SUFFIXES[to]:
            stage.mkdir(exist_ok=True)
        yield stage
