"""Who is in these pictures.

  facezoo recognise party.jpg --gallery gallery.npz --out out/      out/party.jpg with boxes, landmarks and names
  facezoo recognise album/ --gallery gallery.npz --out out/         album/2024/a.jpg as out/2024/a.jpg, and contact sheets
  facezoo recognise party.jpg --json                                faces without names, one JSON line per picture

A picture that cannot be read is reported, and the others are still looked at; the exit status is then 1. Files in folders that
are not pictures are named on standard error. Several pictures are shared out, one to each core at a time; on a single picture
the cores work together.

--out overwrites nothing: if the folder already holds a file that would be written, it is refused before anything is written.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from zoo.commands.recognition import (
    add_gallery_option,
    add_pipeline_options,
    add_threshold_options,
    known_persons,
    make_pipeline,
    report_passed,
)

_SHEET = 100  # pictures on a contact sheet: 3200 x 3440 pixels
_LONGEST = 65500  # pixels: no JPEG has more


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('pictures', nargs='+', type=Path, metavar='PICTURE', help='pictures, or folders of pictures')
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='for the pictures with boxes and names drawn in')
    parser.add_argument('--json', action='store_true', help='print one JSON line per picture instead of words')
    add_gallery_option(parser)
    add_pipeline_options(parser)
    add_threshold_options(parser)


def run(args: argparse.Namespace) -> int:
    from zoo.pipeline.pictures import find_pictures
    from zoo.pipeline.recogniser import recognise
    found = find_pictures(args.pictures)
    report_passed(found.passed)
    drawn = _Drawn(found.pictures, args.out) if args.out else None
    pipeline, failed = make_pipeline(args, many=len(found.pictures) > 1), 0
    with known_persons(args, pipeline) as (gallery, threshold):
        for scene in pipeline.stream(found.pictures):
            scene = scene if gallery is None else recognise(scene, gallery, threshold)
            failed += scene.error is not None
            whoever = 'face' if gallery is None else 'unknown'
            print(json.dumps(scene.to_dict()) if args.json else _describe(scene, whoever), flush=True)
            if drawn:
                drawn.add(scene)
    if drawn:
        drawn.end()
    return 1 if failed else 0


def _describe(scene, whoever: str) -> str:
    if scene.error:
        return scene.error
    who = [face.name or ('not compared: ' + face.refused if face.refused else whoever)
           for face in scene.faces]
    return f'{scene.source}: {len(who)} face{"s" * (len(who) != 1)}' + (f' ({", ".join(who)})' if who else '')


class _Drawn:
    """The pictures with their faces drawn in, and contact sheets of several, each of a hundred.

    Raises:
        ValueError: two would be written to one file.
        FileExistsError: one would be overwritten.
    """

    def __init__(self, pictures: Mapping[Path, Path], folder: Path) -> None:
        targets = _targets(pictures, folder)
        sheets = _sheets(len(targets), folder)
        for path, count in Counter([*targets, *sheets]).items():
            if count > 1:
                raise ValueError(f'--out {folder}: several pictures would become {path}; take one folder at a time, or rename '
                                 'pictures')
            if path.exists():
                raise FileExistsError(f'--out {folder}: {path} is there already, and nothing is overwritten; name a new folder')
        self._targets, self._sheets, self._shown = iter(targets), iter(sheets), []

    def add(self, scene) -> None:
        """Write the next picture; a small one is kept for the contact sheet, until that is full."""
        from zoo.pipeline.draw import THUMBNAIL, draw_scene, shrink
        target = next(self._targets)
        if scene.picture is not None:
            _write_picture(target, draw_scene(shrink(scene, _LONGEST)))
            scene = shrink(scene, THUMBNAIL)
        self._shown.append(scene)
        if len(self._shown) == _SHEET:
            self.end()

    def end(self) -> None:
        """Write the contact sheet of what was added since the last one."""
        from zoo.pipeline.draw import contact_sheet
        if self._shown and (sheet := next(self._sheets, None)):
            _write_picture(sheet, contact_sheet(self._shown))
        self._shown.clear()


def _targets(pictures: Mapping[Path, Path], folder: Path) -> list[Path]:
    """A file for each picture, at its path below the folder it was found in; of a.png and a.jpg, a.png.jpg and a.jpg.jpg."""
    plain = [below.with_suffix('.jpg') for below in pictures.values()]
    often = Counter(plain)
    return [folder / (name if often[name] == 1 else below.with_name(f'{below.name}.jpg'))
            for name, below in zip(plain, pictures.values(), strict=True)]


def _sheets(pictures: int, folder: Path) -> list[Path]:
    count = math.ceil(pictures / _SHEET) if pictures > 1 else 0
    return [folder / f'contact_sheet{f"_{number:0{len(str(count))}}" * (count > 1)}.jpg' for number in range(1, count + 1)]


def _write_picture(path: Path, picture) -> None:
    from plugins.files import write_atomic
    from plugins.preprocess import encode_image
    write_atomic(path, encode_image(picture, quality=92))
