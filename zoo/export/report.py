"""What every way to deploy a model costs: each artefact made, measured and gated as the exporter does it, as data.

An artefact that fails its gate is a row, too, with the figures that it failed by; so is one that cannot be built, without any.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from zoo.bench import Candidate, bench, machine
from zoo.complexity import profile
from zoo.export.artefact import FORMATS, export_job
from zoo.export.job import Job
from zoo.export.lint import LintError
from zoo.export.ncnn_model import NcnnFormatError
from zoo.export.parity import GateError
from zoo.export.sidecar import SUFFIXES
from zoo.export.target import Target
from zoo.latency import OutOfRange, features_of, load_latency
from zoo.progress import progress_bar

__all__ = ['DeviceTime', 'ReportError', 'Row', 'make_report', 'measure_artefacts', 'predicted_times', 'read_measured']


class ReportError(ValueError):
    """A file of measurements is damaged, or of another model."""


@dataclass(frozen=True)
class Row:
    """One artefact.

    Attributes:
        form: ``onnx``, ``ncnn`` or ``tensorrt``; target: device of a bundle, else empty.
        simulated: the figures are computed on a CPU by the precision's rules; what the device computes, ``verify.py`` measures.
        passed: its gate; reason: why not, or a warning of the target about the precision.
        megabytes: of what is shipped, 1e6 bytes.
        min_cosine: to PyTorch, over the parity faces.
        accuracy: at PyTorch's thresholds of the ten folds, as the gate has it; tar: at FAR 1e-3; both fractions.
        int8_macs: fraction of the multiply-accumulates in 8 bits; kept: layers left in floating point.
        latency_ms: median here, batch 1, one thread; None when it cannot run here or was not passed.
    """

    form: str
    precision: str
    target: str = ''
    simulated: bool = False
    passed: bool = True
    reason: str = ''
    megabytes: float | None = None
    min_cosine: float | None = None
    accuracy: float | None = None
    tar: float | None = None
    int8_macs: float | None = None
    kept: tuple[str, ...] = ()
    latency_ms: float | None = None

    @property
    def label(self) -> str:
        return ' '.join(word for word in (self.form, self.target, self.precision) if word)


@dataclass(frozen=True)
class DeviceTime:
    """Latency on a device: ``milliseconds`` of batch 1 (median), or why there is none.

    Attributes:
        what: precision and runtime.
        kind: ``measured`` or ``predicted``; source: of the figure, with its conditions.
    """

    target: str
    what: str
    kind: str
    milliseconds: float | None
    source: str


def make_report(job: Job, targets: Sequence[Target], folder: str | os.PathLike, measured: Iterable[str | os.PathLike],
                rounds: int) -> dict:
    """Make and measure all artefacts of a model.

    Args:
        job: with a gate set; without ``calib`` there are no 8 bits.
        targets: devices with TensorRT get a bundle for each of their precisions; of all, the latency is reported.
        folder: the artefacts that pass are left there.
        measured: files that a bundle's ``verify.py --out`` wrote.
        rounds: turns of each artefact when it is timed here.

    Returns:
        ``model``, ``gate_set``, ``torch``, ``rows`` (:class:`Row`), ``devices`` (:class:`DeviceTime`), ``machine``.

    Raises:
        ReportError: a file of ``measured`` is not one, or of another model.
        ValueError: the job has no gate set.
    """
    if job.judge.data is None:
        raise ValueError('a report needs --gate-set SET to measure accuracy on')
    times = [time for path in measured for time in read_measured(path, job.name)]  # a wrong file is said before the long work
    rows, paths = measure_artefacts(job, targets, Path(folder))
    rows = _timed(rows, paths, rounds)
    times += predicted_times(features_of(profile(job.model)), targets)
    return {'model': job.name, 'gate_set': job.judge.data.name, 'torch': job.judge.baseline.to_dict(),
            'rows': [asdict(row) for row in rows], 'devices': [asdict(time) for time in times], 'machine': machine(),
            'created': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')}


def measure_artefacts(job: Job, targets: Sequence[Target], folder: Path) -> tuple[list[Row], dict[str, Path]]:
    """A row of every artefact, and the files of those that passed, by label."""
    rows, paths = [], {}
    for form, precision, device in _wanted(job, targets):
        out = folder / f'{job.name}-{device.name if device else form}-{precision}{SUFFIXES[form]}'
        row = Row(form, precision, device.name if device else '', simulated=device is not None,
                  reason=device.verdict(precision) if device else '')
        job = job.on(device)  # which takes along what the artefacts before it have measured
        try:
            sidecar = export_job(job, form, out, precision)
            report = sidecar.get('precisions', {}).get(precision, sidecar)
            row = replace(_with_figures(row, report), megabytes=sidecar['bytes'] / 1e6)
            paths[row.label] = out
        except GateError as error:
            row = replace(_with_figures(row, error.report), passed=False, reason=str(error))
        except (LintError, NcnnFormatError) as error:
            row = replace(row, passed=False, reason='; '.join(str(error).splitlines()))
        rows.append(row)
    return rows, paths


def _wanted(job: Job, targets: Sequence[Target]) -> list[tuple[str, str, Target | None]]:
    wanted = [(form, precision, None) for form, known in FORMATS.items() for precision in known.precisions]
    wanted += [('tensorrt', precision, device) for device in targets if device.runtime.kind == 'tensorrt'
               for precision in (*device.native, *device.verdicts)]
    return [each for each in wanted if job.calib or not each[1].startswith('int8')]


def _with_figures(row: Row, report: Mapping) -> Row:
    """A row with the figures of a gate's report, which has none of a net that hardly looks at its input."""
    plan = report.get('quantisation', {})
    row = replace(row, int8_macs=plan.get('int8_macs'), kept=tuple(plan.get('keep', ())))
    if 'parity' not in report:
        return row
    found = report['verification']['artefact']
    return replace(row, min_cosine=report['parity']['min_cosine'], accuracy=found['accuracy@reference'], tar=found['tar@1e-3'])


def _timed(rows: list[Row], paths: Mapping[str, Path], rounds: int) -> list[Row]:
    """The rows with the latency of what can run here."""
    runtimes = {'onnx': 'onnxruntime', 'ncnn': 'ncnn'}
    candidates = [Candidate(row.label, str(paths[row.label]), runtimes[row.form]) for row in rows
                  if row.form in runtimes and row.label in paths]
    if not candidates:
        return rows
    with progress_bar(rounds * len(candidates), 'turns', 'bench') as bar:
        found = {result.candidate.label: result.p50 for result in bench(candidates, rounds, progress=bar.update)}
    return [replace(row, latency_ms=found.get(row.label)) for row in rows]


def predicted_times(features: Mapping[str, float], targets: Sequence[Target]) -> list[DeviceTime]:
    """FP32 latency by the fits that targets name.

    Args:
        features: of :func:`zoo.latency.features_of`.
    """
    return [DeviceTime(device.name, 'fp32', 'predicted', *_prediction(device.latency, features)) for device in targets]


def _prediction(latency: str, features: Mapping[str, float]) -> tuple[float | None, str]:
    """Milliseconds by a fit and what it rests on; or None, and why there is no prediction."""
    if not latency:
        return None, 'no published measurements to predict from'
    fit = load_latency(latency)
    try:
        return fit.predict(features), f'{fit.device}; fit over {fit.points} networks, leave-one-out error {100 * fit.loo:.0f} %'
    except OutOfRange as error:
        return None, str(error)


def read_measured(path: str | os.PathLike, model: str) -> list[DeviceTime]:
    """What ``verify.py --out`` of a bundle wrote on the device.

    Raises:
        FileNotFoundError: no such file.
        ReportError: not such a file, cut off, or of another model.
    """
    try:
        data = json.loads(Path(path).read_text())
        board = data['board']
        where = f"{board['device']}, TensorRT {board['tensorrt']}, {data['power_mode'] or 'power mode unknown'}, {data['time']}"
        where += '' if data.get('detector', {'passed': True})['passed'] else '; THE DETECTOR FAILED ITS CHECK'
        times = [DeviceTime(data['target'], f'{precision}, {copies} copies', 'measured',
                            float(engine['latency_ms'][f'batch 1, {copies} copies']['p50']),
                            where + ('' if engine['passed'] else '; THE ENGINE FAILED ITS CHECK'))
                 for precision, engine in data['engines'].items() for copies in ('with', 'without')]
        found = data['model']
    except (ValueError, KeyError, TypeError) as error:
        raise ReportError(f'{path}: not written by verify.py --out of a bundle ({error!r}); measure again on the '
                          'device') from None
    if found != model:
        raise ReportError(f'{path}: measured with {found!r}, but the report is about {model!r}; name the file of that model')
    return times
