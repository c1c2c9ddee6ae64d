"""Disk space of an installation, by package: the base alone and with a board's runtimes, for PCs and 64-bit ARM.

    python benchmarks/install_size.py              writes results/install_size.json

pip installs each variant into an empty folder, in the versions of constraints.txt, from wheels for the platform (those for ARM
are unpacked, not run). Sizes are sums of file sizes by package, compiled Python files included; 1 MB is 1e6 bytes. No variant
includes PyTorch. The package index must be reachable.

Needs: nothing
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from command_line import command_line

from plugins.files import write_atomic
from zoo.tables import format_table

ROOT = Path(__file__).parents[1]
RESULT = ROOT / 'results' / 'install_size.json'
TARGET_MB = 150  # for an installation without PyTorch
VARIANTS = {'base': [], 'base + ncnn': ['ncnn'], 'base + onnxruntime': ['onnxruntime'],
            'runtime': ['ncnn', 'onnxruntime', 'onnx']}
GLIBC = ('2_28', '2_27', '2_26', '2_24', '2_17')  # what Raspberry Pi OS, JetPack 6 and current desktops can run
MACHINES = ('x86_64', 'aarch64')


def install(wheel: Path, packages: list[str], machine: str, folder: Path) -> None:
    """facezoo with ``packages``, as an empty ``machine`` would get it."""
    platforms = [f'--platform=manylinux_{version}_{machine}' for version in GLIBC] + [f'--platform=manylinux2014_{machine}']
    subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--target', folder, '--only-binary=:all:', *platforms,
                    '--implementation=cp', '--no-warn-conflicts', '--constraint', ROOT / 'constraints.txt', wheel, *packages],
                   check=True, stdout=subprocess.DEVNULL)


def sizes(folder: Path) -> dict[str, float]:
    """MB by distribution, largest first; compiled files count to the package whose folder holds them."""
    found: dict[str, float] = {}
    for distribution in importlib.metadata.distributions(path=[str(folder)]):
        files = [folder / str(file) for file in distribution.files or ()]
        compiled = [path for top in {file.parent for file in files} for path in (top / '__pycache__').glob('*.pyc')]
        found[distribution.metadata['Name']] = sum(path.stat().st_size for path in {*files, *compiled} if path.is_file()) / 1e6
    return dict(sorted(((name, round(mb, 1)) for name, mb in found.items()), key=lambda row: -row[1]))


def largest_files(folder: Path, count: int = 12) -> dict[str, float]:
    files = sorted(((path.stat().st_size / 1e6, str(path.relative_to(folder))) for path in folder.rglob('*') if path.is_file()),
                   reverse=True)
    return {name: round(mb, 1) for mb, name in files[:count]}


def measure() -> dict:
    report: dict = {}
    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / 'source'  # as committed: setuptools would also pack what older builds left in build/lib
        subprocess.run(['git', '-C', ROOT, 'archive', '--output', f'{source}.tar', 'HEAD'], check=True)
        shutil.unpack_archive(f'{source}.tar', source)
        subprocess.run([sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--wheel-dir', work, source], check=True)
        wheel = next(Path(work).glob('*.whl'))
        for machine in MACHINES:
            for name, added in VARIANTS.items():
                folder = Path(work) / machine / name
                install(wheel, added, machine, folder)
                packages = sizes(folder)
                total = round(sum(packages.values()), 1)
                report.setdefault(machine, {})[name] = {'total_mb': total, 'packages_mb': packages}
                print(f'{machine}, {name}: {total} MB', file=sys.stderr)
            report[machine]['base']['largest_files_mb'] = largest_files(Path(work) / machine / 'base')
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=RESULT)
    args = parser.parse_args()
    report = {'command': command_line(__doc__), 'date': datetime.date.today().isoformat(), 'target_mb': TARGET_MB,
              'python': sys.version.split()[0], 'machines': measure()}
    write_atomic(args.out, json.dumps(report, indent=1) + '\n')
    for machine, variants in report['machines'].items():
        names = list(variants['runtime']['packages_mb'])
        print(format_table([machine, *variants], [
            ['total', *(v['total_mb'] for v in variants.values())],
            *([name, *(v['packages_mb'].get(name, '-') for v in variants.values())] for name in names)]), end='\n\n')


if __name__ == '__main__':
    main()
