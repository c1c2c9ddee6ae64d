"""Put a trained detector into the zoo: measure it against its teacher, name it by its hash, write the card's entry.

  python -m recipes.bundle.detector runs/det --teacher retinaface_mnet025.pth --pictures pictures.zip/heldout
      --raw lfw_raw_fold1.zip --recogniser fdfacenet --licence TEXT --data TEXT --run TEXT

The truth on the held-out pictures is what the teacher says at two scales and mirrored, all views merged: faces it scores at
least 0.8 count, those from 0.3 on are ignored, found or not. The teacher's own single view is measured beside.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import yaml

from plugins.data.pictures import Pictures
from plugins.data.sources import MemoryFaces, TreeFaces
from plugins.faces import Faces
from plugins.preprocess import decode_image, encode_image
from recipes.bundle import install_weights
from recipes.bundle.score import choose_score, score_table
from recipes.trainer.labels import LOWEST, vote
from zoo.evaluate.detection import GroundTruth, evaluate_detections
from zoo.evaluate.verification import VerificationSet, load_verification_set, verify
from zoo.loading import load_model
from zoo.pipeline.align import align
from zoo.progress import progress_bar
from zoo.runtime.detector import DetectorNet, FaceDetector
from zoo.runtime.torch import TorchDetector
from zoo.weights import describe

__all__ = ['CONDITIONS', 'add_measure_options', 'central', 'chain_accuracy', 'chain_metrics', 'heldout_metrics', 'main',
           'observe']

SURE = 0.8  # score from which the teacher's merged opinion counts as a face
# name: (scale, angle in degrees) of the held-out picture, and the least side of the faces that count
CONDITIONS = {'as_is': (1.0, 0, 16), 'small': (0.4, 0, 10), 'turned_30': (1.0, 30, 16), 'turned_45': (1.0, 45, 16)}


def observe(nets: dict[str, DetectorNet], teacher: DetectorNet, root: str) -> tuple[dict, dict]:
    """What each net finds in the pictures below ``root``, and what the teacher's merged opinion has there.

    Returns:
        Detections of all pictures by net and condition, and the truth by condition.
    """
    tree = TreeFaces(root)
    pictures = Pictures(root, dict.fromkeys(tree.names, Faces.from_rows([])))
    detectors = {key: FaceDetector(net, 1024, 0.02) for key, net in nets.items()}
    found = {(key, name): [] for key in nets for name in CONDITIONS}
    truth: dict[str, list[GroundTruth]] = {name: [] for name in CONDITIONS}
    with progress_bar(len(pictures), 'pictures', 'measure') as bar:
        for index in range(len(pictures)):
            picture = pictures.load(index)[0]
            labels = vote(teacher, picture)
            for name, (scale, angle, least) in CONDITIONS.items():
                view, faces = _view(picture, labels, scale, angle)
                truth[name].append(GroundTruth(faces, (faces.scores >= SURE) & (faces.sides.mean(1) >= least)))
                for key, detector in detectors.items():
                    found[key, name].append(detector(view))
            bar.update(1)
    return found, truth


def heldout_metrics(found: dict, truth: dict, nets: Iterable[str], score: float) -> dict:
    """The card's figures of what :func:`observe` returned: each net's agreement with the truth, by condition."""
    return {'conditions': 'agreement with the merged opinion of the teacher (two scales, mirrored; faces scored at least '
                          f'{SURE} count, those from {LOWEST} on are ignored) at IoU 0.5; recall, precision, false alarms a '
                          f'picture and landmark error (fraction of the eye distance) at score {score:g}; teacher: its own '
                          'single view',
            **{key: {name: _figures(found[key, name], truth[name], score) for name in CONDITIONS} for key in nets}}


def _figures(found: list[Faces], truth: list[GroundTruth], score: float) -> dict:
    result = evaluate_detections(found, truth, score)
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in result.to_dict().items()}


def _view(picture: np.ndarray, faces: Faces, scale: float, angle: float) -> tuple[np.ndarray, Faces]:
    """Picture and faces scaled and turned about the middle, in a frame that holds all of it."""
    if scale == 1 and not angle:
        return picture, faces
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    size = np.abs(matrix[:, :2]) @ (width, height)
    matrix[:, 2] += size / 2 - (width / 2, height / 2)
    flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    if not angle:
        view = cv2.resize(picture, tuple(np.rint(size).astype(int)), interpolation=flags)
    else:
        view = cv2.warpAffine(picture, matrix, tuple(np.rint(size).astype(int)))
    return view, faces.warped(matrix)


def central(faces: Faces, picture: np.ndarray) -> np.ndarray | None:
    """Landmarks ``(5, 2)`` of the face nearest to the middle, as LFW is aligned; None without a face."""
    if not len(faces):
        return None
    middle = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2 - np.array(picture.shape[1::-1]) / 2
    return faces.landmarks[np.square(middle).sum(1).argmin()]


def chain_metrics(nets: dict[str, DetectorNet], args: argparse.Namespace, score: float) -> dict:
    """The card's figures of the whole chain with each net, where the command names a set for it; else nothing."""
    if not args.raw:
        return {}
    from zoo.runtime import open_embedder
    return {'chain': {'recogniser': Path(args.recogniser).stem, 'set': Path(args.raw).stem, 'flip': True, 'score': score,
                      **chain_accuracy(nets, args.raw, open_embedder(args.recogniser), score)}}


def chain_accuracy(nets: dict[str, DetectorNet], raw: str, embedder, score: float) -> dict[str, dict]:
    """Verification accuracy from unaligned pictures to decisions with each net doing the alignment.

    A picture in which no face is found gives a black crop, and is counted in ``missed``.
    """
    data, figures = load_verification_set(raw), {}
    for key, net in nets.items():
        detector, crops, missed = FaceDetector(net, threshold=score), [], 0
        for index in range(len(data.faces)):
            picture = decode_image(data.faces.read(index)[0], data.faces.name(index))
            points = central(detector(picture), picture)
            missed += points is None
            size = embedder.preprocess.input_size
            crop = np.zeros((size, size, 3), np.uint8) if points is None else align(picture, points[None], size)[0]
            crops.append(encode_image(crop, '.png'))
        aligned = VerificationSet(data.name, MemoryFaces(crops, raw), data.pairs, data.same)
        result = verify(embedder, aligned)
        figures[key] = {'accuracy': round(result.accuracy, 5), 'std': round(result.std, 5), 'pairs': result.pairs,
                        'tar@1e-3': round(result.tar['1e-3'], 5), 'missed': missed}
    return figures


def add_measure_options(parser: argparse.ArgumentParser) -> None:
    """What a detector is measured with."""
    parser.add_argument('--teacher', required=True, help='weights of the teacher')
    parser.add_argument('--pictures', required=True, help='held-out pictures')
    parser.add_argument('--raw', help='unaligned verification set: the whole chain is measured on it')
    parser.add_argument('--recogniser', default='fdfacenet', help='embedder of the chain')


def main(argv: list[str] | None = None) -> None:
    """Measure a run and write its card entry."""
    parser = argparse.ArgumentParser('python -m recipes.bundle.detector', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run', type=Path, help="a training's output folder")
    add_measure_options(parser)
    parser.add_argument('--licence', default='')
    parser.add_argument('--data', default='', help='what it was trained on')
    parser.add_argument('--history', default='', help='trainings that came before, when the run started from their weights')
    parser.add_argument('--limit', action='append', default=[], help='a known limit, in words')
    parser.add_argument('--measure-only', action='store_true', help='print the figures, change nothing')
    args = parser.parse_args(argv)
    source = args.run / 'last.safetensors'
    facts = describe(source)
    nets = {'student': TorchDetector(load_model(source, None, None, {})),
            'teacher': TorchDetector(load_model(facts['network'], args.teacher, None, {}))}
    found, truth = observe(nets, nets['teacher'], args.pictures)
    score = choose_score(score_table(found['student', 'as_is'], truth['as_is']))
    metrics = {'heldout': heldout_metrics(found, truth, nets, score), **chain_metrics(nets, args, score)}
    print(json.dumps(metrics, indent=1))
    if not args.measure_only:
        install_weights(source, facts['network'],
                        _entry(args, facts, metrics) | {'thresholds': {'score': score}})


def _entry(args: argparse.Namespace, facts: dict, metrics: dict) -> dict:
    recipe = yaml.safe_load((args.run / 'recipe.yaml').read_text())
    steps = [json.loads(line)['step'] for line in (args.run / 'log.jsonl').read_text().splitlines()]
    return {'licence': args.licence, 'data': args.data,
            'recipe': f'retinaface_mnet025_kd, run {args.run.name}: {recipe["num_epoch"]} epochs (logged to step {max(steps)}'
                      f'), batch {recipe["batch_size"]}, views of {recipe["view_size"]} pixels, lr {recipe["lr"]}, seed '
                      f'{recipe["seed"]}, averaged weights. {args.history} Bundled {datetime.date.today()} with Python '
                      f'{platform.python_version()}',
            'network_args': facts['network_args'], 'metrics': metrics, 'limits': args.limit}


if __name__ == '__main__':
    main()
