"""Choose the lowest score of a face for a bundled detector, and measure what it costs.

  python -m recipes.bundle.score retinaface_mnet025 --teacher retinaface_mnet025.pth --pictures pictures.zip/heldout
      --raw lfw_raw_fold1.zip --recogniser edgeface_xs.onnx

The rule: the lowest score, in hundredths, from which on there is at most one false alarm in 50 pictures. The card gets it as
``thresholds: {score: ...}``, which makes it the default of the pipeline and the commands, and its figures anew, at that score;
``results/detector_score.json`` gets the whole table. The score is also chosen on either half of the pictures and measured on
the other half, which says how much of the figures is luck.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from plugins.extras import installed_versions
from plugins.faces import Faces
from plugins.files import write_atomic
from recipes.bundle import write_entry
from zoo.evaluate.detection import GroundTruth, evaluate_detections
from zoo.loading import load_model
from zoo.model_card import card
from zoo.runtime.torch import TorchDetector, open_torch_detector
from zoo.tables import format_table

__all__ = ['MOST', 'RULE', 'choose_score', 'main', 'score_table']

MOST = 1 / 50
RULE = 'the lowest score, in hundredths, from which on there is at most one false alarm in 50 pictures'
SCORES = tuple(round(score, 2) for score in np.arange(0.30, 1, 0.01).tolist())
FIGURES = ('recall', 'precision', 'false_alarms')


def score_table(found: Sequence[Faces], truth: Sequence[GroundTruth], scores: Sequence[float] = SCORES) -> dict[float, dict]:
    """Recall, precision and false alarms a picture by lowest score of a face."""
    results = {score: evaluate_detections(found, truth, score) for score in scores}
    return {score: {key: round(getattr(result, key), 4) for key in FIGURES} for score, result in results.items()}


def choose_score(table: dict[float, dict]) -> float:
    """The score that :data:`RULE` gives.

    Raises:
        ValueError: at no score in the table are false alarms that rare.
    """
    rare = [score for score in table if all(row['false_alarms'] <= MOST for other, row in table.items() if other >= score)]
    if not rare:
        raise ValueError(f'false alarms are above {MOST:g} a picture even at score {max(table)}: the detector is no good, or '
                         'the pictures have faces that are not labelled')
    return min(rare)


def cross_check(found: Sequence[Faces], truth: Sequence[GroundTruth]) -> list[dict]:
    """Chosen on every second picture, measured on the others, and the other way round."""
    rows = []
    for first, second in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        score = choose_score(score_table(found[first], truth[first]))
        rows.append({'chosen_on_other_half': score, **score_table(found[second], truth[second], [score])[score]})
    return rows


def main(argv: list[str] | None = None) -> None:
    """Choose, write the card and the table."""
    from recipes.bundle.detector import add_measure_options, chain_metrics, heldout_metrics, observe
    parser = argparse.ArgumentParser('python -m recipes.bundle.score', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('network', help='a detector with bundled weights')
    add_measure_options(parser)
    parser.add_argument('--out', type=Path, default=Path('results/detector_score.json'))
    args = parser.parse_args(argv)
    weights = card(args.network).weights['default']
    teacher = load_model(args.network, args.teacher, None, {})
    nets = {'student': open_torch_detector(args.network), 'teacher': TorchDetector(teacher)}
    found, truth = observe(nets, nets['teacher'], args.pictures)
    own, known = found['student', 'as_is'], truth['as_is']
    table = score_table(own, known)
    score = choose_score(table)
    heldout = heldout_metrics(found, truth, nets, score)
    write_entry(args.network, 'default', {'metrics': {'heldout': heldout, **chain_metrics(nets, args, score)},
                                          'thresholds': {'score': score}})
    report = {'model': args.network, 'sha256': weights.sha256, 'rule': RULE, 'score': score,
              'conditions': f'{len(known)} pictures as they are, {sum(int(t.counts.sum()) for t in known)} faces; '
                            + heldout['conditions'].partition('; recall')[0],
              'table': {f'{key:.2f}': row for key, row in table.items()}, 'halves': cross_check(own, known),
              'command': ' '.join(['python -m recipes.bundle.score', *('/'.join(Path(word).parts[-2:])
                                                                       for word in argv or sys.argv[1:])]),
              'versions': installed_versions(['torch', 'numpy', 'opencv-python-headless']),
              'date': datetime.date.today().isoformat()}
    write_atomic(args.out, json.dumps(report, indent=1) + '\n')
    print(format_table(['score', *FIGURES], [[key, *row.values()] for key, row in table.items()]))
    print(f'\n{score}: {RULE}')


if __name__ == '__main__':
    main()
