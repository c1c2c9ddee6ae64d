"""The process of one benchmark candidate; see :mod:`zoo.bench`. Reads a number of calls a line, answers with their times."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

from zoo.bench import Candidate


def main() -> None:
    """Load the candidate named in the first argument and time it as often as standard input asks."""
    candidate = Candidate(**json.loads(sys.argv[1]))
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:candidate.threads])
    try:
        embedder = _open(candidate)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(str(error))  # its message alone
    size = embedder.preprocess.input_size
    faces = np.random.default_rng(0).integers(0, 256, (candidate.batch, size, size, 3), np.uint8)
    embedder(faces)
    _answer(model_mb=_size(candidate.path) / 1e6)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            began, busy = time.perf_counter(), time.process_time()
            embedder(faces)
            times.append((1000 * (time.perf_counter() - began), 1000 * (time.process_time() - busy)))
        _answer(times=times, peak_mb=peak_mb())


def _open(candidate: Candidate):
    from zoo.runtime import open_embedder
    if not candidate.runtime.startswith('torch'):
        return open_embedder(candidate.path, candidate.threads)
    import torch

    from zoo.export.fold import fold_batchnorm
    from zoo.loading import build_any
    from zoo.runtime.torch import TorchEmbedder
    torch.set_num_threads(candidate.threads)
    model = build_any(candidate.path)
    if not hasattr(model, 'num_features'):
        raise ValueError('is a detector; this times recognisers')
    model = fold_batchnorm(model).to(memory_format=torch.channels_last)
    embedder = TorchEmbedder(model, model.preprocess, candidate.label)
    if candidate.runtime == 'torch-compiled':
        model.compile()
    return embedder


def _size(path: str) -> int:
    path = Path(path)
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir() if file.suffix in ('.param', '.bin'))
    if path.suffix == '.param':
        return path.stat().st_size + path.with_suffix('.bin').stat().st_size
    return path.stat().st_size if path.exists() else 0


def peak_mb() -> float:
    """Peak resident memory of this program in 1e6 bytes."""
    with contextlib.suppress(OSError, StopIteration):
        # not getrusage: its maximum is inherited from the process that started this one
        line = next(s for s in Path('/proc/self/status').read_text().splitlines() if s.startswith('VmHWM'))
        return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if sys.platform == 'darwin' else 1024 * peak) / 1e6  # bytes on macOS, kibibytes elsewhere


def _answer(**facts) -> None:
    print(json.dumps(facts), flush=True)
