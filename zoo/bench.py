"""Latency, throughput and memory of recognisers on this machine, measured in turns so that a noisy machine does not decide.

Every candidate (model x runtime x batch x threads) lives in a process of its own with its own thread settings. Round by round
each candidate runs a few inferences while the others sleep; a candidate's ratio to the first one is taken round by round, so
a slow minute hits both. Runs without torch when the models are files.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from plugins.extras import installed_versions

__all__ = ['BenchResult', 'Candidate', 'Worker', 'bench', 'machine']

# what decides over speed in 8 and 16 bits and wide vectors, of x86 and ARM, as Linux calls it
INSTRUCTIONS = ('avx2', 'avx512f', 'avx_vnni', 'avx512_vnni', 'avx512_bf16', 'amx_int8', 'asimdhp', 'asimddp', 'i8mm', 'bf16')

# from where this package lies: `-m` would look in the current folder first, where a project of the user's may have `plugins`
_WORKER = [sys.executable, '-c', 'import sys; sys.path[0] = sys.argv.pop(1); from zoo.bench_worker import main; main()',
           str(Path(__file__).absolute().parents[1])]


@dataclass(frozen=True)
class Candidate:
    """What is timed.

    Attributes:
        label: name in the results.
        path: a model file (or a zoo name, for torch).
        runtime: ``torch``, ``torch-compiled``, ``onnxruntime``, ``ncnn``: recorded, and for torch decisive.
        threads: of the runtime; the process is pinned to so many CPUs where the system allows it.
    """

    label: str
    path: str
    runtime: str
    batch: int = 1
    threads: int = 1


@dataclass(frozen=True)
class BenchResult:
    """Times in milliseconds a call (a batch); ``ratio`` is the median over rounds of time / time of the first candidate, and
    ``ratio_low`` and ``ratio_high`` are the smallest and the largest of a round: no confidence interval.

    ``cpu`` is the median of the processor time of all threads: unlike the clock it hardly grows when other programs run.
    ``peak_mb`` is the process's peak resident memory (1e6 bytes) with the runtime loaded; ``model_mb`` the files' size.
    """

    candidate: Candidate
    p50: float
    p90: float
    p99: float
    cpu: float
    images_per_second: float
    ratio: float
    ratio_low: float
    ratio_high: float
    peak_mb: float
    model_mb: float
    calls: int

    def to_dict(self) -> dict:
        data = asdict(self)
        candidate = data.pop('candidate')
        del candidate['path']  # a path of this machine says nothing to others
        return candidate | {k: round(v, 4) if isinstance(v, float) else v for k, v in data.items()}


class Worker:
    """A process that answers each line of its input with one line of JSON, and says first that it is loaded.

    Attributes:
        facts: its first line.

    Raises:
        RuntimeError: it ended; the last line of its errors is in the message.
    """

    def __init__(self, label: str, command: Sequence[str], threads: int) -> None:
        env = os.environ | {key: str(threads) for key in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')}
        env['OMP_WAIT_POLICY'] = 'PASSIVE'  # sleeping candidates must not spin
        self.label = label
        # not a pipe: warnings that nobody reads would fill it, and the process would wait
        self._errors = tempfile.TemporaryFile('w+')  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=self._errors)
        self.facts = self._read()

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            reason = self._errors.read().strip().splitlines()[-1:] or ['its process died']
            self.close()
            raise RuntimeError(f'{self.label}: {reason[0]}')
        return json.loads(line)

    def ask(self, question: object) -> dict:
        """The answer to one line."""
        with contextlib.suppress(BrokenPipeError):  # it has died; what it said is read next
            self._process.stdin.write(f'{question}\n')
            self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def bench(candidates: Sequence[Candidate], rounds: int = 10, calls: int = 10, warm_up: int = 5,
          progress: Callable[[int], object] | None = None) -> list[BenchResult]:
    """Time all candidates in turns.

    Args:
        rounds: how often each has its turn; calls: inferences a turn; warm_up: calls before the first round.

    Raises:
        RuntimeError: a candidate cannot be loaded; its own message is in it.
    """
    workers: list[Worker] = []
    try:
        for candidate in candidates:
            workers.append(Worker(candidate.label, [*_WORKER, json.dumps(asdict(candidate))], candidate.threads))
        for worker in workers:
            worker.ask(warm_up)
        times: list[list[list[tuple[float, float]]]] = [[] for _ in workers]  # by worker, turn and call: clock, processor
        peaks = [0.0] * len(workers)
        for turn in range(rounds):
            for index in np.roll(np.arange(len(workers)), -turn):  # no candidate always follows the same one
                answer = workers[index].ask(calls)
                times[index].append(answer['times'])
                peaks[index] = answer['peak_mb']
                if progress:
                    progress(1)
    finally:
        for worker in workers:
            worker.close()
    first = np.median(np.array(times[0])[..., 0], axis=1)
    return [_summary(candidate, worker, np.array(samples), first, peak)
            for candidate, worker, samples, peak in zip(candidates, workers, times, peaks, strict=True)]


def _summary(candidate: Candidate, worker: Worker, samples: np.ndarray, first: np.ndarray, peak: float) -> BenchResult:
    clock, cpu = samples[..., 0], samples[..., 1]
    p50, p90, p99 = np.percentile(clock, [50, 90, 99])
    ratios = np.median(clock, axis=1) / first
    return BenchResult(candidate, p50, p90, p99, float(np.median(cpu)), 1000 * candidate.batch / p50, float(np.median(ratios)),
                       float(ratios.min()), float(ratios.max()), peak, worker.facts['model_mb'], clock.size)


def machine() -> dict:
    """What a figure depends on: processor, its fast instructions, cores, clock policy, system, versions, date. No host name, no
    paths."""
    versions = installed_versions(('facezoo', 'torch', 'onnxruntime', 'ncnn', 'numpy'))
    flags = _cpuinfo('flags', 'Features').split()
    # a virtual machine calls processors with very different instructions by one name
    return {'processor': _cpuinfo('model name', 'Model') or platform.processor(),
            'instructions': [name for name in INSTRUCTIONS if name in flags], 'cores': os.cpu_count(),
            'architecture': platform.machine(), 'governor': _read_line('/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor'),
            'board': _read_line('/proc/device-tree/model'), 'system': f'{platform.system()} {platform.release().split("-")[0]}',
            'python': platform.python_version(), 'versions': versions, 'load': round(os.getloadavg()[0], 2),
            'date': datetime.date.today().isoformat()}


def _cpuinfo(*fields: str) -> str:
    """The first value of one of these fields as Linux tells it of the processor, empty where it tells none."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return ''
    return next((line.partition(':')[2].strip() for line in lines if line.startswith(fields)), '')


def _read_line(path: str) -> str | None:
    try:
        return Path(path).read_text().strip('\0\n ')
    except OSError:
        return None
