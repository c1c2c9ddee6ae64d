"""Make or change a gallery of known persons.

  facezoo enrol gallery.npz people/                 every picture people/NAME/*.jpg; adds to an existing gallery
  facezoo enrol gallery.npz --list
  facezoo enrol gallery.npz --remove NAME
  facezoo enrol qdrant://host:6333/people people/   a collection of a Qdrant database; qdrant:FOLDER/COLLECTION needs no server

A picture must show one clear face. Pictures that do not are listed with the reason; the others are enrolled. Files that are not
pictures, pictures in nobody's folder and empty folders are named on standard error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from zoo.commands.recognition import (
    add_pipeline_options,
    add_threshold_options,
    make_pipeline,
    report_passed,
    stated_threshold,
)
from zoo.pipeline.galleries import ADDRESSES, open_gallery


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('gallery', metavar='GALLERY', help=f'{ADDRESSES}; created if it does not exist')
    parser.add_argument('people', nargs='?', type=Path, metavar='PEOPLE',
                        help='folder with a folder of pictures for each person')
    parser.add_argument('--list', action='store_true', help='print who is enrolled, and with how many pictures')
    parser.add_argument('--remove', action='append', default=[], metavar='NAME', help='forget a person')
    add_pipeline_options(parser)
    add_threshold_options(parser)


def run(args: argparse.Namespace) -> None:
    if not (args.people or args.list or args.remove):
        raise ValueError('say what to do: name a folder of people, --list or --remove NAME')
    if args.remove:
        with open_gallery(args.gallery, change=True) as gallery:
            counts = gallery.remove(*args.remove)
        for name, count in zip(args.remove, counts, strict=True):
            print(f'{name}: removed, pictures: {count}')
    if args.people:
        _enrol(args)
    if args.list:
        with open_gallery(args.gallery) as gallery:
            for name, pictures in gallery.persons.items():
                print(f'{name}: {len(pictures)}')


def _enrol(args: argparse.Namespace) -> None:
    from zoo.pipeline.enrol import enrol_folder
    from zoo.pipeline.quality import ENROLMENT
    pipeline = make_pipeline(args, ENROLMENT, many=True)
    threshold, stated = stated_threshold(args, pipeline.embedder)
    with open_gallery(args.gallery, pipeline.contract(), change=True) as gallery:
        done = enrol_folder(pipeline, gallery, args.people, threshold, progress=True)
    report_passed(done.passed)
    for path, reason in done.refused:
        print(f'not enrolled: {path}: {reason}')
    for path, similarity in done.doubtful:
        print(f'doubtful: {path}: similarity {similarity:.2f} to the other pictures of this person (known from {stated}); look '
              'at it')
    pictures = sum(map(len, done.enrolled.values()))
    print(f'{args.gallery}: {pictures} pictures of {len(done.enrolled)} persons enrolled, {len(done.refused)} refused; '
          f'{done.persons} persons in all')
