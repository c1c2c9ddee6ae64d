"""Run one of InsightFace's arcface_torch scripts, unmodified, with facezoo's backbones and recipes.

  facezoo arcface-torch --checkout insightface                         check a checkout and remember it
  facezoo arcface-torch train_v2.py configs/fdfacenet_ms1mv3
  facezoo arcface-torch --set rec=DIR --set batch_size=64 train_v2.py configs/fdfacenet_ms1mv3
  facezoo arcface-torch inference.py --network fdfacenet --weight model.pt
  torchrun --nproc_per_node 8 -m plugins.arcface_torch train_v2.py configs/fdfacenet_ms1mv3

Options of this command come before SCRIPT, options of the script after it. Recipes are looked for in the checkout, in
facezoo, in ./configs and in --configs folders. `facezoo doctor` says which libraries are missing and which shims are needed.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from plugins.arcface_torch import bridge, checkout
from plugins.arcface_torch.checkout import CheckoutError
from plugins.arcface_torch.preflight import check_training
from plugins.extras import MissingExtra
from plugins.overrides import apply_overrides, parse_overrides

__all__ = ['configure', 'main', 'run']


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--checkout', metavar='DIR', help='an insightface checkout, or its recognition/arcface_torch; it is '
                                                          'checked and, without SCRIPT, remembered')
    parser.add_argument('--configs', action='append', default=[], type=Path, metavar='DIR', help='another folder of recipes')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE', help='replace a value of the recipe')
    parser.add_argument('--without', action='append', default=[], metavar='SHIM', help='leave out a shim of `facezoo doctor`')
    parser.add_argument('script', nargs='?', metavar='SCRIPT', help='train_v2.py, eval_ijbc.py, onnx_ijbc.py, ...')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, metavar='...', help='arguments of the script')


def run(args: argparse.Namespace) -> int:
    """Prepare and run; the exit status is the script's. Its own errors show their traceback."""
    folder = checkout.locate(args.checkout)
    if not args.script:
        note = f'; remembered in {checkout.remember(folder)}' if args.checkout else ''
        print(f'{folder}: arcface_torch with the signatures that facezoo knows{note}')
        print(f'scripts: {", ".join(checkout.scripts(folder))}')
        return 0
    launch = bridge.prepare(folder, args.script, args.arguments, args.configs, args.without)
    config = bridge.load_config(launch)
    overrides = parse_overrides(args.set)
    if config is None and overrides:
        raise bridge.LaunchError('--set changes a recipe, and only train_v2.py reads one; leave it out')
    first = os.environ.get('RANK', '0') == '0'
    if first:
        _announce(launch)
    if config is not None:
        config.update(apply_overrides(config, overrides))
        notes = check_training(config, folder)
        for note in notes if first else []:
            print(f'arcface-torch: {note}', file=sys.stderr)
    try:
        bridge.run(launch)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _announce(launch: bridge.Launch) -> None:
    print(f'arcface-torch: {launch.checkout}/{launch.script}, {len(launch.shims)} shims', file=sys.stderr)
    for name, reason in launch.shims.items():
        print(f'  {name:20s}{reason}', file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser('python -m plugins.arcface_torch', description=__doc__.partition('\n')[0],
                                     epilog=__doc__.partition('\n')[2], formatter_class=argparse.RawDescriptionHelpFormatter)
    configure(parser)
    try:
        return run(parser.parse_args(argv))
    except (bridge.LaunchError, CheckoutError, MissingExtra, ValueError, OSError) as error:
        print(f'arcface-torch: {error}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
