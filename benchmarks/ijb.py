"""Templates and pairs of IJB-C at its real size: time and peak memory of facezoo's functions beside InsightFace's own.

    python benchmarks/ijb.py --checkout insightface                 469 375 faces, 23 124 templates, 15 658 489 pairs
    python benchmarks/ijb.py --checkout insightface --part 0.1      a tenth of everything

Embeddings are random vectors around one centre for each person (IJB's images must be applied for; the arithmetic is the same).
Both sides draw them batch by batch from the same seed. The noise, whose size is log-normal for each picture, is so large that
at every FAR some templates of a person are found and some are not; if all or none are, the script fails. Each side runs in a
process of its own: InsightFace's holds all embeddings, as eval_ijbc.py does, and runs the functions of onnx_ijbc.py (the same
code, importable). Writes results/ijb_benchmark.json.

Both sides must agree: every score to 1e-6 (InsightFace adds float32, rounded to 6e-8, some twenty faces per template; we add
float64), and every TAR to one genuine pair (a pair changes sides only if an impostor's score is as near to its own as
the two sides' scores are to each other, which happens to less than one pair at a FAR).

Needs: insightface (a checkout)
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
from command_line import command_line

ROOT = Path(__file__).parents[1]
FACES, TEMPLATES, PAIRS, GENUINE, PERSONS, WIDTH = 469_375, 23_124, 15_658_489, 19_557, 3_531, 512
BATCH = 4096
NOISE, QUALITY = 6.0, 1.0  # of a picture, in units of the spread of centres; sigma of its factor's logarithm
SCORES_ALIKE = 1e-6
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
        size = NOISE * np.exp(QUALITY * rng.standard_normal((len(centre), 1), np.float32))
        yield size * rng.standard_normal((len(centre), 2 * WIDTH), np.float32) + np.concatenate([centre, centre], 1)


def imported(side: str, checkout: str) -> ModuleType:
    """The module whose functions are measured."""
    if side == 'facezoo':
        from zoo.evaluate import ijb
        return ijb
    from plugins.arcface_torch import bridge
    from plugins.arcface_torch.checkout import locate
    bridge.prepare(locate(checkout), 'onnx_ijbc.py')
    import onnx_ijbc
    return onnx_ijbc


def ours(data: dict[str, np.ndarray], ijb: ModuleType) -> tuple[np.ndarray, list[float]]:
    """Scores of all pairs, float64 ``(P,)``, and TARs."""
    templates, template = np.unique(data['template'], return_inverse=True)
    _, medium = np.unique(data['medium'], return_inverse=True)
    pairs = np.stack([data['first'], data['second']], 1).astype(np.int32)
    protocol = ijb.IJBProtocol(Path(), 'ijbc', (), np.empty(0), data['score'], templates, template, medium, pairs, data['same'])
    sums = ijb.TemplateSums(protocol)
    for batch in embeddings(data['person']):
        sums.add(batch[:, :WIDTH].astype(np.float64) + batch[:, WIDTH:])
    scores = ijb.score_pairs(sums.features(), protocol.pairs)
    points = ijb.roc_points(scores, protocol.same)
    return scores, [ijb.tar_nearest(*points, far) for far in FARS]


def theirs(data: dict[str, np.ndarray], onnx_ijbc: ModuleType) -> tuple[np.ndarray, list[float]]:
    """The same by ``eval_ijbc.py``, line by line around InsightFace's own functions."""
    features = np.empty((len(data['template']), 2 * WIDTH), np.float32)
    for number, batch in enumerate(embeddings(data['person'])):
        features[number * BATCH:number * BATCH + len(batch)] = batch
    summed = features[:, :WIDTH] + features[:, WIDTH:]
    summed = summed * data['score'][:, None]
    normed, unique = onnx_ijbc.image2template_feature(summed, data['template'], data['medium'])
    scores = onnx_ijbc.verification(normed, unique, data['first'], data['second'])
    fpr, tpr, _ = onnx_ijbc.roc_curve(data['same'].astype(int), scores)
    fpr, tpr = np.flipud(fpr), np.flipud(tpr)
    return scores, [float(tpr[min(zip(abs(fpr - far), range(len(fpr)), strict=True))[1]]) for far in FARS]


def measure(side: str, part: float, checkout: str, out: Path) -> None:
    """Print seconds, peak memory and TARs of one side, and keep its scores in ``out``.

    What imports, making the lists and writing the scores took is not counted.
    """
    data, module = lists(part), imported(side, checkout)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu = time.perf_counter(), time.process_time()
    scores, tar = (ours if side == 'facezoo' else theirs)(data, module)
    print('\n' + json.dumps({
        'seconds': round(time.perf_counter() - began, 1), 'cpu_seconds': round(time.process_time() - cpu, 1),
        'peak_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, 'before_mb': start // 1024, 'tar': tar}))
    np.save(out, scores)


def refuse_ends(found: dict[str, dict]) -> None:
    """Stop when one side's TAR is 0 or 1 at some FAR: both sides may agree there by having nothing to disagree about.

    Raises:
        SystemExit: names the side, the FAR and what to change.
    """
    for side, facts in found.items():
        for far, tar in zip(FARS, facts['tar'], strict=True):
            if not 0 < tar < 1:
                raise SystemExit(f'{side}: TAR {tar:g} at FAR {far:g}: an agreement at the ends says nothing; make NOISE in '
                                 f'benchmarks/ijb.py {"smaller" if tar <= 0 else "larger"}')


def agreement(found: dict[str, dict], scores: dict[str, np.ndarray], same: np.ndarray) -> dict:
    """How far the sides are apart, what is allowed, and whether they agree."""
    tar = float(np.abs(np.subtract(*(facts['tar'] for facts in found.values()))).max())
    score = float(np.abs(np.subtract(*scores.values())).max())
    genuine = int(same.sum())
    return {'genuine': genuine, 'largest_tar_difference': tar, 'allowed_tar_difference': 1 / genuine,
            'largest_score_difference': score, 'allowed_score_difference': SCORES_ALIKE,
            'agree': score <= SCORES_ALIKE and round(tar * genuine) <= 1}


def compare(args: argparse.Namespace) -> dict:
    """Run both sides, one after the other, and say what was found.

    Raises:
        SystemExit: a TAR is 0 or 1.
    """
    from zoo.bench import machine
    found, scores = {}, {}
    with tempfile.TemporaryDirectory() as work:
        for side in ('facezoo', 'insightface'):
            path = Path(work) / f'{side}.npy'
            done = subprocess.run([sys.executable, __file__, '--side', side, '--part', str(args.part),
                                   '--checkout', args.checkout, '--scores', path], stdout=subprocess.PIPE, text=True,
                                  check=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
            found[side], scores[side] = json.loads(done.stdout.splitlines()[-1]), np.load(path)
            print(side, found[side], flush=True)
    refuse_ends(found)
    return {'command': command_line(__doc__), 'machine': machine(), 'threads': os.environ.get('OMP_NUM_THREADS', 'all cores'),
            'conditions': 'the machine did other work meanwhile: processor time counts, not the clock; drawing the embeddings '
                          'is included on both sides, embedding of images is not; before_mb: after imports and lists',
            'faces': int(FACES * args.part), 'templates': int(TEMPLATES * args.part), 'pairs': int(PAIRS * args.part),
            'noise': NOISE, 'quality': QUALITY, 'fars': FARS, **agreement(found, scores, lists(args.part)['same']), **found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--checkout', required=True, help='insightface, or its recognition/arcface_torch')
    parser.add_argument('--part', type=float, default=1.0, help='fraction of the real size')
    parser.add_argument('--out', type=Path, default=ROOT / 'results' / 'ijb_benchmark.json')
    parser.add_argument('--scores', type=Path, help=argparse.SUPPRESS)
    parser.add_argument('--side', choices=('facezoo', 'insightface'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        measure(args.side, args.part, args.checkout, args.scores)
        return 0
    from plugins.files import write_atomic
    report = compare(args)
    write_atomic(args.out, json.dumps(report, indent=2) + '\n')
    return 0 if report['agree'] else 1


if __name__ == '__main__':
    sys.exit(main())
