"""Templates and pairs of IJB-C at its real size: time and peak memory of ours beside InsightFace's own functions.

    python benchmarks/ijb.py --checkout insightface                 469 375 faces, 23 124 templates, 15 658 489 pairs
    python benchmarks/ijb.py --checkout insightface --part 0.1      a tenth of everything

Embeddings are random vectors around one centre a person (the images of IJB must be applied for; the arithmetic is the same),
drawn from a seed batch by batch on both sides. Each side runs in a process of its own: InsightFace's holds all embeddings, as
eval_ijbc.py does, and runs the functions of onnx_ijbc.py (the same code, importable). Writes results/ijb_benchmark.json.

Needs: insightface (a checkout)
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
FACES, TEMPLATES, PAIRS, GENUINE, PERSONS, WIDTH = 469_375, 23_124, 15_658_489, 19_557, 3_531, 512
BATCH = 4096
FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def lists(part: float) -> dict[str, np.ndarray]:
    """Template, medium and detector score of each face, and the pairs with their labels."""
    rng = np.random.default_rng(0)
    faces, templates, pairs, genuine = (int(n * part) for n in (FACES, TEMPLATES, PAIRS, GENUINE))
    template = np.sort(np.r_[np.arange(templates), rng.integers(templates, size=faces - templates)])
    person = rng.integers(int(PERSONS * part), size=templates)
    first, second = rng.integers(templates, size=(2, pairs))
    order = np.argsort(person, kind='stable')
    row = rng.integers(templates - 1, size=genuine)
    first[:genuine], second[:genuine] = order[row], order[row + 1]  # neighbours in the order of persons: mostly the same one
    return {'template': template, 'medium': template * 64 + rng.integers(40, size=faces), 'person': person[template],
            'score': rng.uniform(0.5, 1, faces).astype(np.float32), 'first': first, 'second': second,
            'same': person[first] == person[second]}


def embeddings(person: np.ndarray) -> Iterator[np.ndarray]:
    """Batches of plain and mirrored embeddings side by side, float32 ``(n, 2 * WIDTH)``."""
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((int(person.max()) + 1, WIDTH), np.float32)
    for at in range(0, len(person), BATCH):
        centre = centres[person[at:at + BATCH]]
        noise = 4 * rng.standard_normal((len(centre), 2 * WIDTH), np.float32)
        yield noise + np.concatenate([centre, centre], 1)


def ours(data: dict[str, np.ndarray]) -> list[float]:
    from zoo.evaluate.ijb import IJBProtocol, TemplateSums, score_pairs
    from zoo.evaluate.roc import roc_points, tar_nearest
    templates, template = np.unique(data['template'], return_inverse=True)
    _, medium = np.unique(data['medium'], return_inverse=True)
    pairs = np.stack([data['first'], data['second']], 1).astype(np.int32)
    protocol = IJBProtocol(Path(), 'ijbc', (), np.empty(0), data['score'], templates, template, medium, pairs, data['same'])
    sums = TemplateSums(protocol)
    for batch in embeddings(data['person']):
        sums.add(batch[:, :WIDTH].astype(np.float64) + batch[:, WIDTH:])
    points = roc_points(score_pairs(sums.features(), protocol.pairs), protocol.same)
    return [tar_nearest(*points, far) for far in FARS]


def theirs(data: dict[str, np.ndarray], checkout: str) -> list[float]:
    """``eval_ijbc.py`` line by line, around InsightFace's own functions."""
    from plugins.arcface_torch import bridge
    from plugins.arcface_torch.checkout import locate
    bridge.prepare(locate(checkout), 'onnx_ijbc.py')
    import onnx_ijbc
    features = np.empty((len(data['template']), 2 * WIDTH), np.float32)
    for number, batch in enumerate(embeddings(data['person'])):
        features[number * BATCH:number * BATCH + len(batch)] = batch
    summed = features[:, :WIDTH] + features[:, WIDTH:]
    summed = summed * data['score'][:, None]
    normed, unique = onnx_ijbc.image2template_feature(summed, data['template'], data['medium'])
    scores = onnx_ijbc.verification(normed, unique, data['first'], data['second'])
    fpr, tpr, _ = onnx_ijbc.roc_curve(data['same'].astype(int), scores)
    fpr, tpr = np.flipud(fpr), np.flipud(tpr)
    return [float(tpr[min(zip(abs(fpr - far), range(len(fpr)), strict=True))[1]]) for far in FARS]


def measure(side: str, part: float, checkout: str) -> None:
    """Print seconds, peak memory and TARs of one side; what making the lists took is not counted in the seconds."""
    data = lists(part)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu = time.perf_counter(), time.process_time()
    tar = ours(data) if side == 'facezoo' else theirs(data, checkout)
    print('\n' + json.dumps({
        'seconds': round(time.perf_counter() - began, 1), 'cpu_seconds': round(time.process_time() - cpu, 1),
        'peak_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, 'lists_mb': start // 1024, 'tar': tar}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--checkout', required=True, help='insightface, or its recognition/arcface_torch')
    parser.add_argument('--part', type=float, default=1.0, help='fraction of the real size')
    parser.add_argument('--side', choices=('facezoo', 'insightface'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        measure(args.side, args.part, args.checkout)
        return 0
    found = {}
    for side in ('facezoo', 'insightface'):
        done = subprocess.run([sys.executable, __file__, '--side', side, '--part', str(args.part), '--checkout', args.checkout],
                              stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
        found[side] = json.loads(done.stdout.splitlines()[-1])
        print(side, found[side], flush=True)
    difference = float(np.abs(np.subtract(found['facezoo']['tar'], found['insightface']['tar'])).max())
    report = {'command': f'python benchmarks/ijb.py --checkout insightface --part {args.part:g}',
              'date': time.strftime('%Y-%m-%d'),
              'faces': int(FACES * args.part), 'templates': int(TEMPLATES * args.part), 'pairs': int(PAIRS * args.part),
              'machine': f'{os.cpu_count()} CPU cores, shared with other work; embedding of images not included', 'fars': FARS,
              'largest_tar_difference': difference, **found}
    (ROOT / 'results' / 'ijb_benchmark.json').write_text(json.dumps(report, indent=2) + '\n')
    return 0 if difference < 1e-9 else 1


if __name__ == '__main__':
    sys.exit(main())
