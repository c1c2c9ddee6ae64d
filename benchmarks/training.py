"""Training speed on CPUs: facezoo's trainer beside InsightFace's, the same networks, faces, batch and margin head.

    git clone --depth 1 https://github.com/deepinsight/insightface
    pip install 'facezoo[train,arcface-torch]'
    python benchmarks/training.py --checkout insightface --faces faces_train.zip          writes results/training.json

Needs: insightface (a checkout), faces_train.zip (aligned 112x112 faces, a folder a person)

InsightFace's ``train_v2.py`` runs unmodified through the launcher (in float32, because its mixed precision is CUDA's); facezoo
runs as its recipes for CPUs do (bf16, compiled) and as InsightFace does (float32, not compiled). What counts is the faces a
second after the first steps, as each trainer logs them; the runs take turns, and each round begins with another side.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from command_line import command_line

ROOT = Path(__file__).parents[1]
NETWORKS = ('fdfacenet', 'mobilefacenet')
IDENTITIES, BATCH, STEPS, WARM = 400, 64, 20, 10
FAST, PLAIN = ('precision=auto', 'compile=true'), ('precision=32', 'compile=false')


def insightface(network: str, rec: Path, work: Path, checkout: Path) -> float:
    """Faces a second that ``train_v2.py`` logs, over the steps after the first ten."""
    values = {'network': network, 'rec': str(rec), **counts(rec), 'num_epoch': 1, 'batch_size': BATCH, 'frequent': 2,
              'verbose': 10 ** 6, 'val_targets': [], 'num_workers': 1, 'output': str(work / 'theirs')}
    settings = [word for key, value in values.items() for word in ('--set', f'{key}={value}')]
    text = run(['plugins.arcface_torch', *settings, 'train_v2.py', 'configs/fdfacenet_ms1mv3'], work, checkout)
    return statistics.median([float(x) for x in re.findall(r'Speed ([\d.]+) samples/sec', text)][WARM // 2 - 1:])


def facezoo(network: str, rec: Path, work: Path, options: tuple[str, ...]) -> float:
    """Faces a second of our trainer, likewise."""
    output = work / 'ours'
    subprocess.run(['rm', '-rf', output], check=True)
    run(['zoo.cli', 'train', 'fdfacenet_ms1mv3', f'network={network}', f'rec={rec}', 'num_epoch=1', f'batch_size={BATCH}',
         'frequent=2', 'val_targets=[]', 'num_workers=1', *(f'{key}={value}' for key, value in counts(rec).items()),
         f'output={output}', *options], work)
    lines = [json.loads(line) for line in (output / 'log.jsonl').read_text().splitlines()]
    return statistics.median(line['rate'] for line in lines if line.get('step', 0) > WARM and 'rate' in line)


def run(arguments: list[str], work: Path, checkout: Path | None = None) -> str:
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'FACEZOO_CACHE': str(work / 'cache'), 'XDG_CONFIG_HOME': str(work)}
    if checkout:
        environment['ARCFACE_TORCH'] = str(checkout)
    done = subprocess.run([sys.executable, '-m', *arguments], cwd=work, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f'{" ".join(arguments)}:\n{done.stdout[-4000:]}')
    return done.stdout


def counts(rec: Path) -> dict:
    from plugins.data.sources import open_faces
    faces = open_faces(rec)
    return {'num_classes': faces.num_classes, 'num_image': len(faces)}


def subset(faces: str, out: Path) -> Path:
    """The first faces of a set, as many as the steps need."""
    from plugins.data.pack import gather, keep_identities, pack_records
    from plugins.data.sources import open_faces
    pack_records(out, keep_identities(gather([open_faces(faces)]), IDENTITIES)[:BATCH * STEPS])
    return out


def turns(sides: Sequence[str], rounds: int) -> list[list[str]]:
    """The order in each round: rotated by one, so that each side comes first, second and last equally often."""
    return [[*sides[turn % len(sides):], *sides[:turn % len(sides)]] for turn in range(rounds)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--checkout', required=True, help='insightface, or its recognition/arcface_torch')
    parser.add_argument('--faces', required=True, help='folder or zip of aligned 112x112 faces')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--out', type=Path, default=ROOT / 'results' / 'training.json')
    args = parser.parse_args()
    from plugins.arcface_torch.checkout import COMMIT, locate
    from plugins.extras import installed_versions
    from plugins.files import write_atomic
    from zoo.bench import machine
    checkout = locate(args.checkout)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        rec = subset(args.faces, work / 'rec')
        sides = {'insightface': lambda network: insightface(network, rec, work, checkout),
                 'facezoo': lambda network: facezoo(network, rec, work, FAST),
                 'facezoo, float32, not compiled': lambda network: facezoo(network, rec, work, PLAIN)}
        found: dict[str, dict[str, list[float]]] = {network: {side: [] for side in sides} for network in NETWORKS}
        for order in turns(list(sides), args.rounds):
            for network in NETWORKS:
                for side in order:
                    found[network][side].append(round(sides[side](network), 1))
                    print(network, side, found[network][side], flush=True)
    medians = {network: {side: statistics.median(rates) for side, rates in sides.items()} for network, sides in found.items()}
    report = {'command': command_line(__doc__), 'machine': machine(), 'threads': os.environ.get('OMP_NUM_THREADS', 'all cores'),
              'arcface_torch': f'deepinsight/insightface {COMMIT}',
              'versions': installed_versions(('torch', 'torchvision', 'lightning-fabric', 'numpy')),
              'rounds': args.rounds,
              'conditions': f'no GPU, batch {BATCH}, ArcFace head, SGD, faces a second after {WARM} of {STEPS} steps, runs in '
                            'turns, each round beginning with another side',
              'rates': found, 'medians': medians,
              'ratio': {network: round(sides['facezoo'] / sides['insightface'], 2) for network, sides in medians.items()}}
    print(json.dumps(report, indent=2))
    write_atomic(args.out, json.dumps(report, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
