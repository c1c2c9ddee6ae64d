"""Train a recipe: a recogniser with its losses and teachers, or a detector.

  facezoo train fdfacenet_kd_faces rec=DIR teachers='["edgeface_xs.onnx"]' output=runs/fd
  facezoo train retinaface_mnet025_kd pictures=DIR teacher=WEIGHTS     a detector, from unlabelled pictures
  facezoo train my_recipe.py lr=0.05 augment.flip=0
  facezoo train fdfacenet_kd_faces resume=true ...       go on after an interruption, to the same result as without one
  torchrun --nproc_per_node 2 -m zoo.cli train ...       several processes

Ctrl-C saves and stops. The run's folder holds recipe.yaml (resolved), best.safetensors and last.safetensors,
checkpoint.pt, log.jsonl and tensorboard/.
"""

from __future__ import annotations

import argparse
import importlib
import sys

# task of a recipe: its trainer, as module:name
TRAINERS = {'recognition': 'recipes.trainer.engine:Trainer', 'detection': 'recipes.trainer.detector:DetectorTrainer'}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('recipe', metavar='RECIPE', help='a shipped recipe by name, or a .py file with a `config` mapping')
    parser.add_argument('overrides', nargs='*', metavar='KEY=VALUE', help='replace values of the recipe')


def run(args: argparse.Namespace) -> None:
    from plugins.extras import require
    from plugins.overrides import parse_overrides
    from recipes.config import load_recipe, read_config
    require('torch', 'train')  # said before the data are looked at, and with the whole of what a training needs
    overrides = parse_overrides(args.overrides)
    config = load_recipe(args.recipe, overrides)
    sampled = {**read_config(args.recipe), **overrides}.get('sample_rate', 1)
    if sampled != 1:
        print(f"note: sample_rate={sampled} (PartialFC) is for InsightFace's trainer, `facezoo arcface-torch train_v2.py "
              f'configs/{args.recipe}`; here every process holds and updates all class centres', file=sys.stderr)
    module, _, name = TRAINERS[config.task].partition(':')
    results = getattr(importlib.import_module(module), name)(config).fit()
    for name, result in results.items():
        print(f'{name}: ' + ', '.join(f'{key} {value:.4f}' for key, value in result.items()))
    print(f'weights: {config.output}/last.safetensors')
