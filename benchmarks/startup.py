"""How long `import zoo` and `facezoo list` take beside a Python that does nothing, and which imports take the time.

    python benchmarks/startup.py                   writes results/startup.json

Every run is a new process; the three take turns, and the medians are compared with the targets (0.2 s and 0.5 s). The modules
named are those of `facezoo list` whose own import takes longest (python -X importtime, with compiled files present, median of
five runs). Exit status 1 when a target is missed.

Needs: nothing
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from command_line import command_line

from plugins.files import write_atomic
from zoo.bench import machine

ROOT = Path(__file__).parents[1]
RESULT = ROOT / 'results' / 'startup.json'
STARTS = {'python -c pass': ['-c', 'pass'], 'import zoo': ['-c', 'import zoo'], 'facezoo list': ['-m', 'zoo.cli', 'list']}
TARGETS = {'import zoo': 0.2, 'facezoo list': 0.5}
HEAVY = ('numpy', 'torch', 'cv2', 'onnxruntime', 'ncnn')


def start(arguments: list[str]) -> tuple[float, float, str]:
    """Seconds of the clock and of the processor of one new Python, and what it wrote to standard error."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run = subprocess.run([sys.executable, *arguments], cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT)}, check=True,
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, run.stderr


def imports(arguments: list[str]) -> dict[str, float]:
    """Milliseconds that each module's own import takes, without those that it imports."""
    rows = [line.removeprefix('import time:').split('|') for line in start(['-X', 'importtime', *arguments])[2].splitlines()
            if line.startswith('import time:') and 'self [us]' not in line]
    return {name.strip(): int(own) / 1000 for own, _, name in rows}


def measure(rounds: int) -> dict:
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in STARTS}
    for arguments in STARTS.values():
        start(arguments)  # compiles, and reads the files from disk
    for _ in range(rounds):
        for name, arguments in STARTS.items():
            seconds[name].append(start(arguments)[:2])
    tables = [imports(STARTS['facezoo list']) for _ in range(5)]
    own = {name: statistics.median(table.get(name, 0.0) for table in tables) for name in tables[0]}
    slowest = sorted(own, key=own.get, reverse=True)[:15]
    return {'seconds': {name: round(statistics.median(wall for wall, _ in rows), 3) for name, rows in seconds.items()},
            'processor_seconds': {name: round(statistics.median(cpu for _, cpu in rows), 3) for name, rows in seconds.items()},
            'slowest_seconds': {name: round(max(wall for wall, _ in rows), 3) for name, rows in seconds.items()},
            'targets': TARGETS, 'modules_of_facezoo_list': len(own),
            'import_milliseconds': {name: round(own[name], 2) for name in slowest},
            'heavy_modules_imported': [name for name in HEAVY if name in own]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--out', type=Path, default=RESULT)
    args = parser.parse_args()
    report = {'command': command_line(__doc__), 'rounds': args.rounds, **measure(args.rounds), 'machine': machine()}
    write_atomic(args.out, json.dumps(report, indent=1) + '\n')
    print(json.dumps({key: report[key] for key in ('seconds', 'processor_seconds', 'import_milliseconds')}, indent=1))
    return int(any(report['seconds'][name] > target for name, target in TARGETS.items()))


if __name__ == '__main__':
    sys.exit(main())
