"""Whether two pictures show the same person.

  facezoo verify a.jpg b.jpg                        the largest face of each, at FAR 1e-3
  facezoo verify a.jpg b.jpg --far 1e-4 --json

The exit status is 0 for the same person, 3 for different persons, and 1 when a picture cannot be compared.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from zoo.commands.recognition import add_pipeline_options, add_threshold_options, make_pipeline, stated_threshold

DIFFERENT = 3


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('first', type=Path, metavar='PICTURE', help='a picture with a face')
    parser.add_argument('second', type=Path, metavar='PICTURE', help='the picture to compare it with')
    parser.add_argument('--json', action='store_true', help='print JSON instead of a sentence')
    add_pipeline_options(parser)
    add_threshold_options(parser)


def run(args: argparse.Namespace) -> int:
    from plugins.preprocess import FaceError
    pipeline = make_pipeline(args, many=True)
    threshold, stated = stated_threshold(args, pipeline.embedder)
    faces = []
    for scene in pipeline.stream([args.first, args.second]):
        found = sorted((face for face in scene.faces if face.embedding is not None), key=lambda face: -face.quality.side)
        if not found:
            raise FaceError(scene.error or f'{scene.source}: no face that can be compared'
                            + ''.join(f' ({face.refused})' for face in scene.faces[:1]))
        faces.append(found[0])
    similarity = float(faces[0].embedding @ faces[1].embedding)
    same = similarity > threshold
    if args.json:
        print(json.dumps({'same': same, 'similarity': round(similarity, 4), 'threshold': threshold,
                          'faces': [face.to_dict() for face in faces]}))
    else:
        print(f'{"same person" if same else "different persons"}: similarity {similarity:.4f} (known from {stated})')
    return 0 if same else DIFFERENT
