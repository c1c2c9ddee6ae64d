"""Options that several commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from plugins.overrides import parse_overrides

__all__ = ['add_backbone_options', 'add_embedder_options', 'backbone_options', 'image_size', 'named_set', 'number']


def number(kind: type, least: float, most: float = math.inf, above: bool = False) -> Callable[[str], float]:
    """The argparse type of a number of ``least`` to ``most``; anything else, NaN too, is wrong usage.

    Args:
        kind: ``int`` or ``float``.
        above: ``least`` itself is refused.
    """
    room = (f'above {least}' if above else f'at least {least}') if most == math.inf else f'{least} to {most}'

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or math.isinf(value) or (above and value == least):
            raise argparse.ArgumentTypeError(f'{text}: must be a{" whole" * (kind is int)} number, {room}')
        return value
    return parse


def image_size(text: str) -> tuple[int, int]:
    """The argparse type of ``112`` or ``HEIGHTxWIDTH`` in pixels, as (height, width)."""
    height, both, width = text.partition('x')
    return number(int, 1)(height), number(int, 1)(width if both else height)


def named_set(text: str) -> tuple[str, str]:
    """The argparse type of ``NAME=SET``."""
    name, _, path = text.partition('=')
    if not (name and path):
        raise argparse.ArgumentTypeError(f'{text}: write NAME=SET, as in lfw=lfw.bin')
    return name, path


def add_embedder_options(parser: argparse.ArgumentParser) -> None:
    """The recogniser that is measured, mirroring and threads."""
    parser.add_argument('model', metavar='MODEL', help='a model of the zoo, a weights file, .onnx, .param or its folder')
    parser.add_argument('--network', metavar='BACKBONE', help='backbone of a weights file that does not name it')
    parser.add_argument('--no-flip', action='store_true', help='do not add the embedding of the mirrored face')
    parser.add_argument('--threads', type=number(int, 0), default=0, metavar='N',
                        help='threads of the runtime; 0: its own choice')


def add_backbone_options(parser: argparse.ArgumentParser) -> None:
    """``--width``, ``--input``, ``--num-features`` and ``--set`` for anything else a family takes."""
    parser.add_argument('--width', type=number(float, 0, above=True), metavar='X',
                        help='channel multiplier; 1 is the published width')
    parser.add_argument('--input', type=image_size, metavar='HxW', help='input size in pixels, 112x112 unless given')
    parser.add_argument('--num-features', type=number(int, 1), metavar='N', help='length of the embedding, 512 unless given')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE', help='another option that the family takes')


def backbone_options(args: argparse.Namespace) -> dict:
    """The options that were given, as keyword arguments of :func:`zoo.create`."""
    given = {'width': args.width, 'input_size': args.input, 'num_features': args.num_features}
    return {key: value for key, value in given.items() if value is not None} | parse_overrides(args.set)
