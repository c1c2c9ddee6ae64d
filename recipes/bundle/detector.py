"""Put a trained detector into the zoo: measure it against its teacher, name it by its hash, write the card's entry.

  python -m recipes.bundle.detector runs/det --teacher retinaface_mnet025.pth --pictures pictures.zip/heldout
      --raw lfw_raw_fold1.zip --recogniser fdfacenet --licence TEXT --data TEXT --history TEXT
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
from pathlib import Path

import yaml

import zoo
from recipes.bundle import install_weights
from recipes.bundle.detection import add_measure_options, chain_metrics, choose_score, heldout_metrics, observe, score_table
from zoo.runtime.torch import TorchDetector
from zoo.weights import describe

__all__ = ['main']


def main(argv: list[str] | None = None) -> None:
    """Measure a run and write its card entry."""
    parser = argparse.ArgumentParser('python -m recipes.bundle.detector', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run', type=Path, help="a training's output folder")
    add_measure_options(parser)
    parser.add_argument('--licence', default='')
    parser.add_argument('--data', default='', help='what the weights were trained on')
    parser.add_argument('--history', default='', help='earlier trainings, if the run started from their weights')
    parser.add_argument('--limit', action='append', default=[], help='a known limit, in words')
    parser.add_argument('--measure-only', action='store_true', help='print the figures, change nothing')
    args = parser.parse_args(argv)
    if not (args.measure_only or (args.licence and args.data)):
        parser.error('a card says under what terms its weights may be used, and what they were trained on: give --licence and '
                     '--data, or --measure-only')
    source = args.run / 'last.safetensors'
    facts = describe(source)
    nets = {'student': TorchDetector(zoo.load(source)),
            'teacher': TorchDetector(zoo.load(facts['network'], args.teacher))}
    found, truth = observe(nets, nets['teacher'], args.pictures)
    score = choose_score(score_table(found['student', 'as_is'], truth['as_is']))
    metrics = {'heldout': heldout_metrics(found, truth, nets, score), **chain_metrics(nets, args, score)}
    print(json.dumps(metrics, indent=1))
    if not args.measure_only:
        install_weights(source, facts['network'], _entry(args, facts, metrics, score))


def _entry(args: argparse.Namespace, facts: dict, metrics: dict, score: float) -> dict:
    """What the card says of the weights."""
    recipe = yaml.safe_load((args.run / 'recipe.yaml').read_text())
    steps = [json.loads(line)['step'] for line in (args.run / 'log.jsonl').read_text().splitlines()]
    return {'licence': args.licence, 'data': args.data,
            'recipe': f'{args.run.name}: {recipe["num_epoch"]} epochs (logged to step {max(steps)}), batch '
                      f'{recipe["batch_size"]}, views of {recipe["view_size"]} pixels, lr {recipe["lr"]}, seed '
                      f'{recipe["seed"]}, averaged weights. {args.history} Bundled {datetime.date.today()} with Python '
                      f'{platform.python_version()}',
            'network_args': facts['network_args'], 'metrics': metrics, 'limits': args.limit, 'thresholds': {'score': score}}


if __name__ == '__main__':
    main()
