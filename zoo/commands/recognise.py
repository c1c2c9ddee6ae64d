"""Who is in these pictures.

  facezoo recognise party.jpg --gallery gallery.npz --out out/      out/party.jpg with boxes, landmarks and names
  facezoo recognise album/ --gallery gallery.npz --out out/         and out/contact_sheet.jpg
  facezoo recognise party.jpg --json                                faces only, one JSON line a picture

A picture that cannot be read is reported and the others go on; the exit status is then 1. Files in folders that are no pictures
are named on standard error.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from zoo.commands.recognition import (
    add_gallery_option,
    add_pipeline_options,
    add_threshold_options,
    known_persons,
    make_pipeline,
    report_passed,
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('pictures', nargs='+', type=Path, metavar='PICTURE', help='pictures, or folders of pictures')
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='for the pictures with boxes and names drawn')
    parser.add_argument('--json', action='store_true', help='one JSON line a picture instead of words')
    add_gallery_option(parser)
    add_pipeline_options(parser)
    add_threshold_options(parser)


def run(args: argparse.Namespace) -> int:
    from zoo.pipeline.draw import contact_sheet
    from zoo.pipeline.pictures import find_pictures
    from zoo.pipeline.recogniser import recognise
    found = find_pictures(args.pictures)
    report_passed(found.passed)
    pipeline = make_pipeline(args)
    shown, failed = [], 0
    with known_persons(args, pipeline) as (gallery, threshold):
        for scene in pipeline.stream(found.pictures):
            scene = scene if gallery is None else recognise(scene, gallery, threshold)
            failed += scene.error is not None
            print(json.dumps(scene.to_dict()) if args.json else _describe(scene), flush=True)
            if args.out:
                shown.append(_save(scene, args.out))
    if args.out and len(shown) > 1:
        _write_picture(args.out / 'contact_sheet.jpg', contact_sheet(shown))
    return 1 if failed else 0


def _describe(scene) -> str:
    if scene.error:
        return scene.error
    who = [face.name or ('not compared: ' + face.refused if face.refused else 'unknown' if face.match else 'face')
           for face in scene.faces]
    return f'{scene.source}: {len(who)} face{"s" * (len(who) != 1)}' + (f' ({", ".join(who)})' if who else '')


def _save(scene, folder: Path):
    """Write the drawn picture; returns the scene small enough to be kept for the contact sheet."""
    from zoo.pipeline.draw import draw_scene, shrink
    if scene.picture is None:
        return scene
    path = Path(scene.source)
    target = folder / f'{path.stem}.jpg'
    if target.resolve() == path.resolve():
        raise ValueError(f'--out {folder} would overwrite {path}; name another folder')
    _write_picture(target, draw_scene(scene))
    return shrink(scene, 312)


def _write_picture(path: Path, picture) -> None:
    from plugins.files import write_atomic
    from plugins.preprocess import encode_image
    write_atomic(path, encode_image(picture, quality=92))
