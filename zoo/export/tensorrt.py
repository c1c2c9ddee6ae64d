"""The TensorRT bundle: a tar with everything a board needs to build, check and run a recogniser by itself."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from plugins.data.sources import read_faces
from plugins.preprocess import l2_normalise
from zoo.evaluate.verification import verify
from zoo.export.bundle_text import build_script, bundle_readme
from zoo.export.calibrate import Calibration
from zoo.export.graph import Graph
from zoo.export.job import Job
from zoo.export.lint import lint, overflowing_nodes, require_buildable
from zoo.export.onnx import INPUT, OUTPUT
from zoo.export.quantize import SCHEMES, group_of, half_graph, int8_graph, simulate_int8, typed_half_graph
from zoo.export.search import Int8Plan
from zoo.export.target import TargetError
from zoo.jetson import bundle as board_bundle
from zoo.jetson.cache import read_cache, write_cache
from zoo.runtime.embedder import sidecar_path
from zoo.runtime.onnx import OnnxEmbedder

__all__ = ['FORMS', 'Variant', 'calibration_cache', 'write_bundle']

SAMPLE_PAIRS = 64
_BOARD = Path(board_bundle.__file__).parent
_SCRIPTS = ('build_engine', 'run', 'verify')


@dataclass(frozen=True)
class Variant:
    """What an engine of one precision is made from.

    Attributes:
        simulation: ONNX model that computes on a CPU what the engine computes.
        files: the bundle's files that only this precision needs.
        layer_precisions: nodes that must not follow the builder's flags, and what they run in instead.
        plan: of 8 bits.
    """

    simulation: object
    files: dict[str, bytes] = field(default_factory=dict)
    layer_precisions: dict[str, str] = field(default_factory=dict)
    plan: Int8Plan | None = None


def _plain(job: Job, graph: Graph, spec: dict) -> Variant:
    return Variant(graph.model)


def _half(job: Job, graph: Graph, spec: dict) -> Variant:
    pinned = overflowing_nodes(graph, _absmax(job))
    return Variant(half_graph(graph, pinned), layer_precisions=dict.fromkeys(pinned, 'fp32'))


def _typed_half(job: Job, graph: Graph, spec: dict) -> Variant:
    model = typed_half_graph(graph, overflowing_nodes(graph, _absmax(job)))
    return Variant(model, {spec['graph']: model.SerializeToString()})


def _cache(job: Job, graph: Graph, spec: dict) -> Variant:
    plan = job.quantiser.plan('tensorrt')
    kept = {name for layer in graph.layers if layer.name in plan.keep for name in group_of(graph, layer)}
    text = calibration_cache(plan.calibration, job.target.tensorrt)
    return Variant(simulate_int8(graph, plan.calibration, SCHEMES['tensorrt'], plan.keep), {
        spec['cache']: text.encode(), 'calibration.json': json.dumps(plan.calibration.to_dict(), indent=1).encode()},
        dict.fromkeys(sorted(kept), 'fp16'), plan)


def _qdq(job: Job, graph: Graph, spec: dict) -> Variant:
    plan = job.quantiser.plan('qdq')
    model = int8_graph(graph, plan.calibration, plan.keep)
    return Variant(model, {spec['graph']: model.SerializeToString(), 'calibration.json': json.dumps(
        plan.calibration.to_dict(), indent=1).encode()}, plan=plan)


# how a precision is made, by the `form` that the runtime's file names
FORMS: dict[str, Callable[[Job, Graph, dict], Variant]] = {
    'plain': _plain, 'half': _half, 'half_typed': _typed_half, 'cache': _cache, 'qdq': _qdq}


def calibration_cache(calibration: Calibration, version: str) -> str:
    """TensorRT's cache for a calibration; read back before it is handed out.

    Args:
        version: of TensorRT, ``'8.2.1'``.
    """
    text = write_cache({name: amax / 127 for name, amax in calibration.amax.items()}, version)
    found = read_cache(text, version=version)
    assert len(found) == len(calibration.amax)
    return text


def write_bundle(job: Job, precisions: str | None, tar: Path) -> dict:
    """Write the bundle's tar.

    Args:
        precisions: several with commas; the target's default when not given.

    Returns:
        Its sidecar: lint, parity and accuracy of every precision.

    Raises:
        TargetError: the target does not use TensorRT, or cannot run a precision.
        LintError: the graph cannot be built there.
        GateError: a precision failed a gate.
        ValueError: no gate set was named.
    """
    target = job.target
    if target is None or target.runtime.kind != 'tensorrt':
        raise TargetError('a TensorRT bundle needs --target, one of those with TensorRT (`facezoo check --list`)')
    if job.judge.data is None:
        raise ValueError('a bundle needs --gate-set SET: its accuracy is measured there, and some of its faces go into the '
                         'bundle for the check on the board')
    chosen = precisions.split(',') if precisions else [target.default]
    verdicts = {precision: target.verdict(precision) for precision in chosen}
    graph = job.quantiser.graph if job.calib else job.graph
    findings = lint(graph, target, _absmax(job) or None)
    require_buildable(findings)
    samples, threshold = _samples(job)
    files = {'model.onnx': graph.model.SerializeToString(), 'samples.npz': _npz(samples)}
    variants, reports = {}, {}
    for precision in chosen:
        spec = dict(target.runtime.variants[precision])
        variant = FORMS[spec.pop('form')](job, graph, spec)
        reports[precision], cosine = _measure(job, variant, precision, samples)
        files |= variant.files
        variants[precision] = {**{k: list(v) if isinstance(v, tuple) else v for k, v in spec.items()},
                               'verdict': verdicts[precision], 'layer_precisions': variant.layer_precisions,
                               'accept': round(1 - max(0.002, 2 * (1 - cosine)), 6), 'simulated_mean_cosine': cosine}
    facts = _bundle_facts(job, files, variants, threshold, reports)
    texts = {'README.md': bundle_readme(facts, target, reports, job.judge, job.facts['licence']).encode(),
             'build.sh': build_script(facts, target).encode(), 'bundle.json': (json.dumps(facts, indent=1) + '\n').encode()}
    # the data last: a tar that was cut off then still has the scripts that say so
    _write_tar(tar, f'{job.name}-{target.name}', {**texts, **_board_files(), **files})
    return {'format': 'tensorrt', 'target': target.name, **job.facts, 'precisions': reports,
            'findings': [finding.to_dict() for finding in findings], 'threshold': threshold}


def _absmax(job: Job) -> dict[str, float]:
    """Largest value of each tensor on the calibration faces; empty without any."""
    return {name: h.absmax for name, h in job.quantiser.histograms.items()} if job.calib else {}


def _measure(job: Job, variant: Variant, precision: str, samples: dict[str, np.ndarray]) -> tuple[dict, float]:
    """The gates' report on a precision, and its mean cosine to torch on the sample faces."""
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / f'{precision}.onnx'
        path.write_bytes(variant.simulation.SerializeToString())
        sidecar_path(path).write_text(json.dumps({'preprocess': job.model.preprocess.to_dict()}))
        embedder = OnnxEmbedder(path, exact=True)
        report = job.pass_gates(embedder, precision, variant.plan)
        cosine = (l2_normalise(embedder(samples['faces'])) * l2_normalise(samples['embeddings'])).sum(1).mean()
    report['simulated'] = True
    if variant.plan:
        report['quantisation'] = variant.plan.to_dict()
    return report, float(cosine)


def _samples(job: Job) -> tuple[dict[str, np.ndarray], float]:
    """Faces, pairs and torch's embeddings for the check on the board; threshold at FAR 1e-3 of single images."""
    data, reference = job.judge.data, job.judge.reference
    rows = np.concatenate([np.flatnonzero(kind)[np.linspace(0, kind.sum() - 1, SAMPLE_PAIRS // 2).astype(int)]
                           for kind in (data.same, ~data.same)])
    used, index = np.unique(data.pairs[rows], return_inverse=True)
    faces = read_faces(data.faces, used, reference.preprocess.input_size)
    samples = {'faces': faces, 'embeddings': reference(faces), 'pairs': index.reshape(-1, 2), 'same': data.same[rows]}
    return samples, verify(reference, data, flip=False, progress=True).threshold['1e-3']


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _bundle_facts(job: Job, files: dict[str, bytes], variants: dict, threshold: float, reports: dict) -> dict:
    import zoo
    target = job.target
    return {'format': board_bundle.FORMAT, 'facezoo': zoo.__version__, 'model': job.name, 'target': target.name,
            'tensorrt': target.tensorrt, 'input': INPUT, 'output': OUTPUT, 'num_features': job.model.num_features,
            'preprocess': job.model.preprocess.to_dict(), 'batch': target.batch, 'workspace_mb': target.workspace_mb,
            'default': next(iter(variants)) if target.default not in variants else target.default, 'variants': variants,
            'threshold': threshold,
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
            tar.addfile(entry, io.BytesIO(data))
