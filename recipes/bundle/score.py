"""Choose the lowest score of a face for a bundled detector, and measure what it costs.

  python -m recipes.bundle.score retinaface_mnet025 --teacher retinaface_mnet025.pth --pictures pictures.zip/heldout
      --raw lfw_raw_fold1.zip --recogniser fdfacenet --recogniser edgeface_xs.onnx

The rule: the lowest score, in hundredths, from which on there is at most one false alarm in 50 pictures. The card gets this
score as ``thresholds: {score: ...}``, which makes it the default of the pipeline and the commands, and new figures, measured at
it; ``results/detector_score.json`` gets the whole table. The score is also chosen on each half of the pictures and measured on
the other half, which shows how much of the figures is luck.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path

import zoo
from plugins.extras import installed_versions
from plugins.files import write_atomic
from recipes.bundle import edit_entry
from recipes.bundle.detection import (
    FIGURES,
    RULE,
    add_measure_options,
    chain_metrics,
    choose_score,
    cross_check,
    heldout_metrics,
    observe,
    score_table,
)
from zoo.model_card import card
from zoo.runtime.torch import TorchDetector, open_torch_detector
from zoo.tables import format_table

__all__ = ['main']


def main(argv: list[str] | None = None) -> None:
    """Choose, write the card and the table."""
    parser = argparse.ArgumentParser('python -m recipes.bundle.score', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('network', help='a detector with bundled weights')
    add_measure_options(parser)
    parser.add_argument('--out', type=Path, default=Path('results/detector_score.json'))
    args = parser.parse_args(argv)
    weights = card(args.network).weights['default']
    nets = {'student': open_torch_detector(args.network), 'teacher': TorchDetector(zoo.load(args.network, args.teacher))}
    found, truth = observe(nets, nets['teacher'], args.pictures)
    own, known = found['student', 'as_is'], truth['as_is']
    table = score_table(own, known)
    score = choose_score(table)
    heldout = heldout_metrics(found, truth, nets, score)
    metrics = {'heldout': heldout, **chain_metrics(nets, args, score)}
    report = {'model': args.network, 'sha256': weights.sha256, 'rule': RULE, 'score': score,
              'conditions': f'{len(known)} pictures as they are, {sum(int(t.counts.sum()) for t in known)} faces; '
                            + heldout['conditions'].partition('; recall')[0],
              'table': {f'{key:.2f}': row for key, row in table.items()}, 'halves': cross_check(own, known),
              'command': ' '.join(['python -m recipes.bundle.score', *('/'.join(Path(word).parts[-2:])
                                                                       for word in argv or sys.argv[1:])]),
              'versions': installed_versions(['torch', 'numpy', 'opencv-python-headless']),
              'date': datetime.date.today().isoformat()}
    edit_entry(args.network, 'default', lambda entry: entry | {'metrics': entry['metrics'] | metrics,
                                                               'thresholds': {'score': score}})
    write_atomic(args.out, json.dumps(report, indent=1) + '\n')
    print(format_table(['score', *FIGURES], [[key, *row.values()] for key, row in table.items()]))
    print(f'\n{score}: {RULE}')


if __name__ == '__main__':
    main()
