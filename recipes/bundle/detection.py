"""How a detector is measured before it goes into the zoo: against its teacher on held-out pictures, as the first step of the
whole chain, and for the lowest score that counts as a face.

The truth on the held-out pictures is what the teacher says at two scales and mirrored, all views merged: faces that it scores
at least 0.8 count; those from 0.3 on are ignored, whether found or not. The teacher's own single view is measured beside the
detector.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from plugins.data.pictures import Pictures
from plugins.faces import Faces
from recipes.trainer.labels import LOWEST, vote
from zoo.evaluate.chain import align_set
from zoo.evaluate.detection import GroundTruth, evaluate_detections
from zoo.evaluate.embed import embed_faces
from zoo.evaluate.verification import VerificationSet, correct_decisions, evaluate_pairs, load_verification_set
from zoo.progress import progress_bar
from zoo.runtime import open_embedder
from zoo.runtime.detector import DetectorNet, FaceDetector

__all__ = ['CONDITIONS', 'FIGURES', 'MOST', 'RULE', 'add_measure_options', 'chain_metrics', 'choose_score',
           'compare_pairs', 'cross_check', 'heldout_metrics', 'observe', 'score_table', 'separation']

SURE = 0.8  # score from which the teacher's merged opinion counts as a face
# name: (scale, angle in degrees) of the held-out picture, and the least side of the faces that count
CONDITIONS = {'as_is': (1.0, 0, 16), 'small': (0.4, 0, 10), 'turned_30': (1.0, 30, 16), 'turned_45': (1.0, 45, 16)}
MOST = 1 / 50
RULE = 'the lowest score, in hundredths, from which on there is at most one false alarm in 50 pictures'
SCORES = tuple(round(score, 2) for score in np.arange(0.30, 1, 0.01).tolist())
FIGURES = ('recall', 'precision', 'false_alarms')


def add_measure_options(parser: argparse.ArgumentParser) -> None:
    """What a detector is measured with."""
    parser.add_argument('--teacher', required=True, help='weights of the teacher')
    parser.add_argument('--pictures', required=True, help='held-out pictures')
    parser.add_argument('--raw', action='append', default=[], metavar='SET',
                        help='verification set: the whole chain is measured on its pictures, whether aligned or not')
    parser.add_argument('--recogniser', action='append', metavar='MODEL', help='recogniser of the chain, fdfacenet by default')


def observe(nets: dict[str, DetectorNet], teacher: DetectorNet, root: str) -> tuple[dict, dict]:
    """What each net finds in the pictures below ``root``, and what the teacher's merged opinion has there.

    Returns:
        Detections of all pictures by net and condition, and the truth by condition.
    """
    pictures = Pictures(root)
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


def chain_metrics(nets: dict[str, DetectorNet], args: argparse.Namespace, score: float) -> dict:
    """The card's figures of the whole chain, from pictures to decisions, with each net doing the alignment: by verification
    set and recogniser that the command names; nothing without a set.

    ``missed`` counts the pictures in which no face is found (:func:`zoo.evaluate.chain.align_set`). ``paired`` has the gain in
    accuracy of the student over the teacher, both at the one threshold that is best for the two together, and its standard
    error, from the pairs that they decide differently. On small sets the gain in ``separation`` says more, in which every
    score counts (:func:`separation`).
    """
    detectors = {key: FaceDetector(net, threshold=score) for key, net in nets.items()}
    chains = [_chain(detectors, load_verification_set(path), args.recogniser or ['fdfacenet']) for path in args.raw]
    return {'chain': {name: {**facts, 'flip': True, 'score': score} for name, facts in chains}} if chains else {}


def _chain(detectors: dict[str, FaceDetector], data: VerificationSet, models: Sequence[str]) -> tuple[str, dict]:
    """The set's name and what :func:`chain_metrics` says of it."""
    aligned, recognisers = {key: align_set(data, detector) for key, detector in detectors.items()}, {}
    for model in models:
        embedder, figures, scores = open_embedder(model), {}, {}
        for key, (crops, _) in aligned.items():
            embeddings, _ = embed_faces(embedder, crops.faces)
            first, second = embeddings[data.pairs[:, 0]], embeddings[data.pairs[:, 1]]
            result, scores[key] = evaluate_pairs(first, second, data.same), (first * second).sum(1)
            figures[key] = {'accuracy': round(result.accuracy, 5), 'std': round(result.std, 5),
                            'tar@1e-3': round(result.tar['1e-3'], 5),
                            'separation': round(float(separation(scores[key], data.same)), 4)}
        recognisers[Path(model).stem] = {**figures, 'paired': compare_pairs(scores['student'], scores['teacher'], data.same)}
    return data.name, {'pairs': len(data.same), 'missed': {key: len(missed) for key, (_, missed) in aligned.items()},
                       'recognisers': recognisers}


def separation(scores: np.ndarray, same: np.ndarray) -> np.ndarray:
    """How far the scores ``(..., pairs)`` of genuine and of impostor pairs lie apart, in standard deviations: the sensitivity
    index d' of signal detection, difference of the means over the root of the mean variance; ``(...)``."""
    genuine, impostor = scores[..., same], scores[..., ~same]
    return (genuine.mean(-1) - impostor.mean(-1)) / np.sqrt((genuine.var(-1) + impostor.var(-1)) / 2)


def compare_pairs(student: np.ndarray, teacher: np.ndarray, same: np.ndarray) -> dict[str, float]:
    """Two sets of scores of the same pairs; see :func:`chain_metrics`."""
    both = np.stack([student, teacher])
    candidates = np.unique(both)
    threshold = candidates[correct_decisions(-both.ravel(), np.tile(same, 2), -candidates).argmax()]
    first, second = (both > threshold) == same
    # 1000 draws of as many genuine and impostor pairs, with replacement: the same ones for both
    rng, rows = np.random.default_rng(0), (np.flatnonzero(same), np.flatnonzero(~same))
    draws = np.concatenate([rng.choice(row, (1000, len(row))) for row in rows], axis=1)
    drawn = np.subtract(*separation(both[:, draws], np.arange(len(same)) < len(rows[0])))
    return {'threshold': round(float(threshold), 4), 'gain': round(float(first.mean() - second.mean()), 5),
            'error': round(float((first != second).sum() ** 0.5 / len(same)), 5),
            'separation_gain': round(float(np.subtract(*separation(both, same))), 4),
            'separation_error': round(float(drawn.std()), 4)}


def score_table(found: Sequence[Faces], truth: Sequence[GroundTruth], scores: Sequence[float] = SCORES) -> dict[float, dict]:
    """Recall, precision and false alarms a picture by lowest score of a face."""
    results = {score: evaluate_detections(found, truth, score) for score in scores}
    return {score: {key: round(getattr(result, key), 4) for key in FIGURES} for score, result in results.items()}


def choose_score(table: dict[float, dict]) -> float:
    """The score that :data:`RULE` gives.

    Raises:
        ValueError: at no score in the table are false alarms that rare.
    """
    rare = [score for score in table if all(row['false_alarms'] <= MOST for other, row in table.items() if other >= score)]
    if not rare:
        raise ValueError(f'more than {MOST:g} false alarms a picture even at score {max(table)}; the detector is poor, or '
                         'the pictures show faces that are not labelled')
    return min(rare)


def cross_check(found: Sequence[Faces], truth: Sequence[GroundTruth]) -> list[dict]:
    """Chosen on every second picture, measured on the others, and the other way round."""
    rows = []
    for first, second in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        score = choose_score(score_table(found[first], truth[first]))
        rows.append({'chosen_on_other_half': score, **score_table(found[second], truth[second], [score])[score]})
    return rows
