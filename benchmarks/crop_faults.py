"""What FDFaceNet's weights lose by faulty crops (landmarks that are off) and without the mirror image.

    python benchmarks/crop_faults.py --set lfw_112.zip --holdout faces/holdout --raw lfw_raw_fold1.zip \\
        --teacher retinaface_mnet025.pth --model fdfacenet_kd_faces.safetensors

Writes results/crop_faults.json.

Needs: lfw_112.zip (LFW, aligned), faces/holdout (labelled faces that were not trained on), lfw_raw_fold1.zip (unaligned
pictures), retinaface_mnet025.pth (another detector), fdfacenet_kd_faces.safetensors (weights measured beside the bundled ones)

``detectors``: how far our detector's landmarks lie from the other's, in pixels of the other's 112-pixel crop. ``misaligned``:
LFW when every coordinate of the landmarks has a normal error of that many pixels, and the mean cosine between a face with the
error and the same face without it. ``mirror``: FAR and TAR of single images over all pairs of held-out faces, at the card's
thresholds, which are for the sum of a face and its mirror image.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path

import numpy as np
from command_line import command_line

import zoo
from plugins.data.degrade import misalign
from plugins.data.sources import FaceSource, open_faces
from plugins.files import write_atomic
from plugins.preprocess import decode_image, encode_image
from zoo.evaluate.embed import embed_faces
from zoo.evaluate.verification import VerificationSet, evaluate_pairs, load_verification_set
from zoo.jetson.align import TEMPLATE, similarity_transform
from zoo.model_card import weights_of
from zoo.pipeline.crop import central_landmarks
from zoo.runtime import open_embedder
from zoo.runtime.detector import FaceDetector, open_detector
from zoo.runtime.embedder import Embedder
from zoo.runtime.torch import TorchDetector

RESULT = Path(__file__).parents[1] / 'results' / 'crop_faults.json'
ERRORS = (0.0, 1.5, 3.0)
DETECTOR, WEIGHTS = 'retinaface_mnet025', ('fdfacenet', 'fdfacenet.lowquality')


class MisalignedFaces:
    """A source's faces as landmarks with an error would align them; a face has the same error in every run."""

    def __init__(self, source: FaceSource, error: float) -> None:
        self.source, self.error, self.num_classes = source, error, source.num_classes

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> tuple[bytes, int]:
        data, label = self.source.read(index)
        image = misalign(decode_image(data, self.name(index)), self.error, np.random.default_rng((1, index)))
        return encode_image(image, '.png'), label

    def name(self, index: int) -> str:
        return self.source.name(index)


def detectors(raw: VerificationSet, teacher: str) -> dict:
    """Distance of our landmarks from the teacher's, where both find the central face, in pixels of the teacher's crop."""
    nets = (open_detector(DETECTOR), FaceDetector(TorchDetector(zoo.load(DETECTOR, teacher))))
    offsets = []
    for index in range(len(raw.faces)):
        picture = decode_image(raw.faces.read(index)[0], raw.faces.name(index))
        ours, theirs = (central_landmarks(detector(picture), picture) for detector in nets)
        if ours is not None and theirs is not None:
            linear = similarity_transform(theirs, TEMPLATE)[:, :2]
            offsets.append((ours - theirs) @ linear.T)
    offsets = np.array(offsets)
    return {'pictures': len(raw.faces), 'both': len(offsets), 'rms_pixels': round(float(np.sqrt(np.square(offsets).mean())), 3),
            'median_distance': round(float(np.median(np.linalg.norm(offsets, axis=2))), 3)}


def misaligned(embedder: Embedder, data: VerificationSet) -> dict:
    """Verification by error of the landmarks."""
    found, sharp = {}, None
    for error in ERRORS:
        embeddings, _ = embed_faces(embedder, MisalignedFaces(data.faces, error), label=f'{error:g} pixels', progress=True)
        sharp = embeddings if sharp is None else sharp
        result = evaluate_pairs(*(embeddings[data.pairs[:, side]] for side in (0, 1)), data.same)
        found[f'{error:g}'] = {'accuracy': round(result.accuracy, 5), 'tar@1e-3': round(result.tar['1e-3'], 5),
                               'cosine': round(float((sharp * embeddings).sum(1).mean()), 4)}
    return found


def mirror(embedder: Embedder, faces: FaceSource, thresholds: dict[str, float]) -> dict:
    """FAR and TAR at the card's thresholds, with mirror images and without."""
    labels = np.array([faces.read(index)[1] for index in range(len(faces))])
    first, second = np.triu_indices(len(labels), 1)
    same, found = labels[first] == labels[second], {}
    for way, flip in (('with', True), ('without', False)):
        embeddings, _ = embed_faces(embedder, faces, flip, label=f'{way} mirror image', progress=True)
        scores = (embeddings @ embeddings.T)[first, second]
        found[way] = {far: {'far': float(f'{(scores[~same] > at).mean():.3g}'),
                            'tar': round(float((scores[same] > at).mean()), 4)} for far, at in thresholds.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--set', required=True, help='verification set: .bin, folder or zip with pairs.txt')
    parser.add_argument('--holdout', required=True, help='labelled faces of identities that were not trained on')
    parser.add_argument('--raw', required=True, help='unaligned verification set')
    parser.add_argument('--teacher', required=True, help="the other detector's weights, of the same network")
    parser.add_argument('--model', action='append', default=[], help='weights to measure beside the bundled ones')
    parser.add_argument('--out', type=Path, default=RESULT)
    args = parser.parse_args()
    data, faces = load_verification_set(args.set), open_faces(args.holdout)
    embedders = {name: open_embedder(name) for name in (*WEIGHTS, *args.model)}
    facts = {'command': command_line(__doc__), 'set': f'{data.name}, {len(data.same)} pairs', 'flip': True,
             'holdout': f'{len(faces)} faces', 'detectors': detectors(load_verification_set(args.raw), args.teacher),
             'misaligned': {}, 'mirror': {}}
    for name, embedder in embedders.items():
        weights = weights_of(name)
        facts['misaligned'][name if weights else Path(name).stem] = misaligned(embedder, data)
        if weights:
            facts['mirror'][name] = mirror(embedder, faces, weights.thresholds)
    write_atomic(args.out, json.dumps(facts | {'date': datetime.date.today().isoformat()}, indent=1) + '\n')


if __name__ == '__main__':
    main()
