"""The TensorRT bundle: a tar with everything a board needs to build, check and run a recogniser, and a detector, by itself."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np

from plugins.data.sources import read_faces
from plugins.files import npz_bytes
from plugins.preprocess import l2_normalise
from zoo.evaluate.verification import verify
from zoo.export.board_detector import board_detector
from zoo.export.bundle_text import build_script, bundle_readme
from zoo.export.graph import Graph
from zoo.export.job import Job
from zoo.export.lint import lint, require_buildable
from zoo.export.onnx import INPUT, OUTPUT
from zoo.export.parity import GateError
from zoo.export.target import TargetError
from zoo.export.variants import FORMS, Variant, largest_values
from zoo.jetson import bundle as board_bundle
from zoo.runtime.embedder import sidecar_path
from zoo.runtime.onnx import OnnxEmbedder

__all__ = ['write_bundle']

SAMPLE_PAIRS = 64
_BOARD = Path(board_bundle.__file__).parent
_SCRIPTS = ('build_engine', 'recognise', 'run', 'verify')


def write_bundle(job: Job, precisions: str | None, tar: Path, detector: Path | None) -> dict:
    """Write the bundle's tar.

    Args:
        precisions: several with commas; the target's default when not given.
        detector: ONNX file of a detector, so that the board finds the faces itself.

    Returns:
        Its sidecar: lint, parity and accuracy of every precision.

    Raises:
        TargetError: the target does not use TensorRT, or cannot run a precision.
        LintError: the graph cannot be built there.
        GateError: a precision, or the detector, failed a gate.
        ValueError: no gate set was named, or the detector cannot be used.
    """
    target = job.target
    if target is None or target.runtime.kind != 'tensorrt':
        raise TargetError('a TensorRT bundle needs --target, a device with TensorRT (`facezoo check --list` shows them)')
    if job.judge.data is None:
        raise ValueError('a bundle needs --gate-set SET: its accuracy is measured there, and some of its faces go into the '
                         'bundle for the check on the board')
    chosen = precisions.split(',') if precisions else [target.default]
    verdicts = {precision: target.verdict(precision) for precision in chosen}
    part = board_detector(detector, target) if detector else None  # before the long work
    graph = job.quantiser.graph if job.calib else job.graph
    findings = lint(graph, target, largest_values(job) or None)
    require_buildable(findings)
    samples, (threshold, source) = _samples(job), _threshold(job)
    files = {'model.onnx': graph.model.SerializeToString(), 'samples.npz': npz_bytes(samples)}
    variants, reports = {}, {}
    for precision in chosen:
        variants[precision], reports[precision], made = _variant(job, graph, precision, verdicts[precision], samples)
        files |= made
    sidecar = {'format': 'tensorrt', 'target': target.name, **job.facts, 'precisions': reports, 'threshold': threshold,
               'threshold_source': source}
    if part:
        variants[board_bundle.DETECTOR], files = part.facts, files | part.files
        sidecar[board_bundle.DETECTOR] = part.report
        findings += [finding for finding in part.findings if finding not in findings]
    facts = {**_bundle_facts(job, files, variants, reports), 'threshold': threshold, 'threshold_source': source}
    texts = {'README.md': bundle_readme(facts, target, reports, job.judge, job.facts['licence']).encode(),
             'build.sh': build_script(facts, target).encode(), 'bundle.json': (json.dumps(facts, indent=1) + '\n').encode()}
    # the data last: a tar that was cut off then still has the scripts that say so
    _write_tar(tar, f'{job.name}-{target.name}', {**texts, **_board_files(), **files})
    return sidecar | {'findings': [finding.to_dict() for finding in findings]}


def _variant(job: Job, graph: Graph, precision: str, verdict: str, samples: dict[str, np.ndarray]
             ) -> tuple[dict, dict, dict[str, bytes]]:
    """What the recogniser's engine of a precision is built from, the gates' report on it, and the files it needs."""
    spec, side = job.target.runtime.variants[precision], job.model.preprocess.input_size
    variant = FORMS[spec['form']](job, graph, spec)
    report, cosine = _measure(job, variant, precision, samples)
    facts = {**{key: value for key, value in spec.items() if key != 'form'}, 'verdict': verdict, 'input': INPUT,
             'shapes': [[batch, 3, side, side] for batch in (1, 1, job.target.batch)],
             'layer_precisions': variant.layer_precisions,
             'accept': round(1 - max(0.002, 2 * (1 - cosine)), 6),  # the board may lose twice what the simulation loses
             'simulated_mean_cosine': cosine}
    return facts, report, variant.files


def _measure(job: Job, variant: Variant, precision: str, samples: dict[str, np.ndarray]) -> tuple[dict, float]:
    """The gates' report on a precision, and its mean cosine to torch on the sample faces."""
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / f'{precision}.onnx'
        path.write_bytes(variant.simulation.SerializeToString())
        sidecar_path(path).write_text(json.dumps({'preprocess': job.model.preprocess.to_dict()}))
        embedder = OnnxEmbedder(path, exact=True)
        try:
            report = job.pass_gates(embedder, precision, variant.plan)
        except GateError as error:
            if precision != 'fp16' or job.calib:
                raise
            raise GateError(f'{error}. If values leave the range of 16 bits, give --calib FACES: their layers then stay in '
                            'FP32', error.report) from None
        cosine = (l2_normalise(embedder(samples['faces'])) * l2_normalise(samples['embeddings'])).sum(1).mean()
    report['simulated'] = True
    if variant.plan:
        report['quantisation'] = variant.plan.to_dict()
    return report, float(cosine)


def _samples(job: Job) -> dict[str, np.ndarray]:
    """Faces, pairs and torch's embeddings for the check on the board."""
    data, reference = job.judge.data, job.judge.reference
    rows = np.concatenate([np.flatnonzero(kind)[np.linspace(0, kind.sum() - 1, SAMPLE_PAIRS // 2).astype(int)]
                           for kind in (data.same, ~data.same)])
    used, index = np.unique(data.pairs[rows], return_inverse=True)
    faces = read_faces(data.faces, used, reference.preprocess.input_size)
    return {'faces': faces, 'embeddings': reference(faces), 'pairs': index.reshape(-1, 2), 'same': data.same[rows]}


def _threshold(job: Job) -> tuple[float, str]:
    """Cosine at a false accept rate of 1 in 1000, and in words where it comes from.

    Measured on the gate set, on single images as the board embeds them, where it has pairs enough; else the card's.
    """
    found = verify(job.judge.reference, job.judge.data, flip=False, progress=True)
    where, known = f'{found.impostors} pairs of strangers in {job.judge.data.name}', job.facts['thresholds'].get('1e-3')
    if found.impostors >= 1000:
        return found.threshold['1e-3'], f'measured on {where}, single images'
    if known is not None:
        return float(known), f"the card's, measured with mirrored faces added: {where} are too few"
    return found.threshold['1e-3'], f'a guess: {where} are too few; measure it on a larger set'


def _bundle_facts(job: Job, files: dict[str, bytes], variants: dict, reports: dict) -> dict:
    import zoo
    target = job.target
    return {'format': board_bundle.FORMAT, 'facezoo': zoo.__version__, 'model': job.name, 'target': target.name,
            'tensorrt': target.tensorrt, 'input': INPUT, 'output': OUTPUT, 'num_features': job.model.num_features,
            'preprocess': job.model.preprocess.to_dict(), 'batch': target.batch, 'workspace_mb': target.workspace_mb,
            'default': target.default if target.default in variants else next(iter(variants)), 'variants': variants,
            'accuracy': {p: r['verification']['artefact']['accuracy'] for p, r in reports.items()},
            'sha256': {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}}


def _board_files() -> dict[str, bytes]:
    """The runtime and the scripts that call it."""
    package = {f'facezoo_jetson/{path.name}': path.read_bytes() for path in sorted(_BOARD.glob('*.py'))}
    scripts = {f'{name}.py': f'#!/usr/bin/env python3\nimport sys\n\nfrom facezoo_jetson.{name} import main\n\n'
                             'sys.exit(main())\n'.encode() for name in _SCRIPTS}
    return package | scripts


def _write_tar(path: Path, folder: str, files: dict[str, bytes]) -> None:
    with tarfile.open(path, 'w') as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(f'{folder}/{name}')
            entry.size, entry.mode = len(data), 0o755 if name in ('build.sh', *(f'{s}.py' for s in _SCRIPTS)) else 0o644
            entry.mtime = int(time.time())  # by which Python on the board tells that a module has changed
            tar.addfile(entry, io.BytesIO(data))
