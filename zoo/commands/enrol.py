"""Make or change a gallery of known persons.

  facezoo enrol gallery.npz people/                 every picture people/NAME/*.jpg; goes on with an existing gallery
  facezoo enrol gallery.npz --list
  facezoo enrol gallery.npz --remove NAME

A picture must show one clear face; those that do not are listed with the reason, and the others are enrolled.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from zoo.commands.recognition import add_pipeline_options, add_threshold_options, make_pipeline, stated_threshold


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('gallery', type=Path, metavar='GALLERY', help='gallery file (.npz); made when there is none')
    parser.add_argument('people', nargs='?', type=Path, metavar='PEOPLE', help='folder with a folder of pictures a person')
    parser.add_argument('--list', action='store_true', help='print who is enrolled, and with how many pictures')
    parser.add_argument('--remove', action='append', default=[], metavar='NAME', help='forget a person')
    add_pipeline_options(parser)
    add_threshold_options(parser)


def run(args: argparse.Namespace) -> None:
    from zoo.pipeline.gallery import Gallery
    if args.remove:
        gallery = Gallery.load(args.gallery)
        for name in args.remove:
            print(f'{name}: {gallery.remove(name)} faces removed')
        gallery.save(args.gallery)
    if args.people:
        _enrol(args)
    elif not args.list and not args.remove:
        raise ValueError('say what to do: name a folder of people, --list or --remove NAME')
    if args.list:
        for name, pictures in Gallery.load(args.gallery).persons.items():
            print(f'{name}: {len(pictures)}')


def _enrol(args: argparse.Namespace) -> None:
    from zoo.pipeline.enrol import enrol_folder
    from zoo.pipeline.gallery import Gallery
    from zoo.pipeline.quality import ENROLMENT
    pipeline = make_pipeline(args, ENROLMENT)
    contract = pipeline.contract()
    gallery = Gallery.load(args.gallery, contract) if args.gallery.exists() else Gallery(contract)
    threshold, stated = stated_threshold(args, pipeline.embedder)
    done = enrol_folder(pipeline, gallery, args.people, threshold)
    gallery.save(args.gallery)
    for path, reason in done.refused:
        print(f'not enrolled: {path}: {reason}')
    for path, similarity in done.doubtful:
        print(f'doubtful: {path}: similarity {similarity:.2f} to the other pictures of this person ({stated}); look at it')
    pictures = sum(map(len, done.enrolled.values()))
    print(f'{args.gallery}: {pictures} pictures of {len(done.enrolled)} persons enrolled, {len(done.refused)} refused; '
          f'{len(gallery)} persons in all')
