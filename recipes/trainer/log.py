"""What a training writes down: JSON lines, TensorBoard when it is installed, and the progress bar."""

from __future__ import annotations

import json
import time
from pathlib import Path

from zoo.progress import progress_bar

__all__ = ['TrainLog']


class TrainLog:
    """Scalars of one run, appended to ``log.jsonl`` and, if possible, to ``tensorboard/``."""

    def __init__(self, folder: Path, total: int, done: int, enabled: bool = True) -> None:
        self._file = open(folder / 'log.jsonl', 'a') if enabled else None  # noqa: SIM115 (lives as long as the log)
        self._writer = _summary_writer(folder / 'tensorboard') if enabled else None
        self.bar = progress_bar(total, 'images', 'train', enabled)
        self.bar.update(done)

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
        self.bar.set_postfix({key: f'{value:.4g}' for key, value in scalars.items() if '/' not in key})

    def close(self) -> None:
        self.bar.close()
        for sink in (self._file, self._writer):
            if sink:
                sink.close()


def _summary_writer(folder: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
