"""What a training writes down: JSON lines, TensorBoard when it is installed, and the progress bar; and how fast it is."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

from plugins.files import write_atomic
from zoo.progress import progress_bar

__all__ = ['TrainLog']


class TrainLog:
    """Scalars of one run, appended to ``log.jsonl`` and, if possible, to ``tensorboard/``.

    Args:
        total: images of the whole training.
        done: steps done before; lines of later ones are removed, since those steps come again.
        batch: images of a step.
    """

    def __init__(self, folder: Path, total: int, done: int, batch: int, enabled: bool = True) -> None:
        if enabled:
            _forget_after(folder / 'log.jsonl', done)
        self._file = open(folder / 'log.jsonl', 'a') if enabled else None  # noqa: SIM115 (lives as long as the log)
        self._writer = _summary_writer(folder / 'tensorboard', done + 1) if enabled else None
        self._bar = progress_bar(total, 'images', 'train', enabled)
        self._bar.update(done * batch)
        self._batch, self._images, self._began = batch, 0, time.monotonic()

    def advance(self) -> None:
        """Another step is done."""
        self._bar.update(self._batch)
        self._images += self._batch

    def rate(self) -> float:
        """Images a second since it was asked last, or since the log was opened."""
        now = time.monotonic()
        rate = self._images / (now - self._began)
        self._images, self._began = 0, now
        return rate

    def write(self, step: int, **scalars: float) -> None:
        """Record scalars of a step."""
        if self._file is None:
            return
        scalars = {key: round(value, 6) for key, value in scalars.items()}
        self._file.write(json.dumps({'step': step, 'time': round(time.time(), 1), **scalars}) + '\n')
        self._file.flush()
        if self._writer:
            for key, value in scalars.items():
                self._writer.add_scalar(key, value, step)
        self._bar.set_postfix({key: f'{value:.4g}' for key, value in scalars.items() if '/' not in key})

    def close(self) -> None:
        self._bar.close()
        for sink in (self._file, self._writer):
            if sink:
                sink.close()


def _forget_after(path: Path, step: int) -> None:
    """Leave out lines of later steps, and one that a kill cut short."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.endswith('\n') and _step(line) <= step]
    if kept != lines:
        write_atomic(path, ''.join(kept))


def _step(line: str) -> float:
    try:
        return json.loads(line)['step']
    except ValueError:
        return math.inf


def _summary_writer(folder: Path, begin: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=begin)
