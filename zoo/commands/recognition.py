"""What the commands ``enrol``, ``recognise``, ``verify`` and ``watch`` share: their options and the pipeline made of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from zoo.commands.options import number
from zoo.pipeline.galleries import ADDRESSES, open_gallery
from zoo.pipeline.gallery import KnownPersons
from zoo.pipeline.threshold import FARS

__all__ = ['add_detector_options', 'add_gallery_option', 'add_pipeline_options', 'add_threshold_options', 'known_persons',
           'make_pipeline', 'report_passed', 'stated_threshold']

_FAR = '1e-3'


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """The detector, its lowest score, and threads."""
    parser.add_argument('--detector', default='retinaface_mnet025', metavar='MODEL',
                        help="detector: a model of the zoo, .onnx (InsightFace's, too), .param or its folder")
    parser.add_argument('--score', type=number(float, 0, 1), metavar='SCORE',
                        help="lowest score that counts as a face, 0 to 1; by default the card's, or InsightFace's 0.5")
    parser.add_argument('--threads', type=number(int, 0), default=0, metavar='N', help='cores to use; 0: all')


def add_pipeline_options(parser: argparse.ArgumentParser) -> None:
    """Models, size, mirroring and threads."""
    parser.add_argument('--model', default='fdfacenet', metavar='MODEL', help='recogniser: a model of the zoo, a weights file, '
                                                                               '.onnx, .param or its folder')
    parser.add_argument('--network', metavar='BACKBONE', help='backbone of a weights file that does not name it')
    add_detector_options(parser)
    parser.add_argument('--size', type=number(int, 1), default=640, metavar='PIXELS',
                        help='scale larger pictures down to this longest side')
    parser.add_argument('--no-flip', action='store_true', help='do not add the mirrored face: faster, a little less accurate')


def add_gallery_option(parser: argparse.ArgumentParser) -> None:
    """Whom to recognise."""
    parser.add_argument('--gallery', metavar='GALLERY', help=f'known persons, made with `facezoo enrol`: {ADDRESSES}')


def add_threshold_options(parser: argparse.ArgumentParser) -> None:
    """How similar is similar enough."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument('--far', choices=FARS,
                       help=f'false accept rate whose threshold is taken from the card; {_FAR} by default')
    which.add_argument('--threshold', type=number(float, -1, 1), metavar='COSINE',
                       help='similarity to exceed instead, -1 to 1; for models without a card')


def make_pipeline(args: argparse.Namespace, gate=None, many: bool = False):
    """The pipeline that the options ask for: one picture is shared among the cores, of ``many`` each core takes its own."""
    from zoo.pipeline.recogniser import open_pipeline
    return open_pipeline(args.model, args.detector, network=args.network, size=args.size, score=args.score, gate=gate,
                         flip=not args.no_flip, threads=args.threads, many=many)


def stated_threshold(args: argparse.Namespace, embedder) -> tuple[float, str]:
    """The threshold, and in words where it comes from."""
    from zoo.pipeline.threshold import threshold_of
    if args.threshold is not None:
        return args.threshold, f'similarity {args.threshold:g}, as given'
    far = args.far or _FAR
    threshold = threshold_of(embedder, far)
    sidecar = getattr(embedder, 'sidecar', {})
    name = sidecar.get('origin') or sidecar.get('model') or embedder.name  # of a file, whatever its folder is called
    return threshold, f'similarity {threshold:.4f}, FAR {far} of the card of {name}'


def report_passed(passed: Mapping[str, Sequence[Path]]) -> None:
    """Say on standard error what was passed over: how many by each reason, and the first few by name."""
    for reason, paths in passed.items():
        first = ', '.join(map(str, paths[:3])) + ', ...' * (len(paths) > 3)
        print(f'passed over, {reason} ({len(paths)}): {first}', file=sys.stderr)


@contextmanager
def known_persons(args: argparse.Namespace, pipeline) -> Iterator[tuple[KnownPersons | None, float]]:
    """The gallery that the options name, or None, and the cosine from which a face is one of its persons."""
    if not args.gallery:
        if args.far or args.threshold is not None:
            raise ValueError('--far and --threshold say who is known: name the --gallery, too')
        yield None, 1.0
        return
    with open_gallery(args.gallery, pipeline.contract()) as gallery:
        threshold, stated = stated_threshold(args, pipeline.embedder)
        print(f'known from {stated}; {len(gallery)} persons', file=sys.stderr)
        yield gallery, threshold
