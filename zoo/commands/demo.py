"""Find and recognise the faces in a picture; export the model to ONNX, NCNN and an InsightFace pack, and check each artefact.

  facezoo demo                          the group photo that the insightface package ships; no network, no arguments
  facezoo demo crops/*.jpg --out DIR    your own aligned 112x112 faces

Writes the artefacts and similarity.png (who looks like whom) to --out. For the group photo it also writes recognised.jpg:
three of the six persons are enrolled from the photo's mirror image, and the other three must come out as unknown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from plugins.extras import require
from plugins.preprocess import decode_image, encode_image, l2_normalise
from zoo.runtime.embedder import embed_batches
from zoo.tables import format_table

_CELL = 112


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('faces', nargs='*', type=Path, metavar='FACE', help='aligned 112x112 faces; none: the group photo')
    parser.add_argument('--model', default='fdfacenet', metavar='MODEL', help='a recogniser of `facezoo list --trained`')
    parser.add_argument('--detector', default='retinaface_mnet025', metavar='MODEL',
                        help='a detector with trained weights, or an .onnx file')
    parser.add_argument('--out', type=Path, default=Path('facezoo_demo'), metavar='FOLDER', help='for what the demo makes')


class _Steps:
    """Runs steps and remembers what each did and how long it took."""

    def __init__(self) -> None:
        self.rows: list[list[object]] = []

    def __call__(self, label: str, action: Callable, describe: Callable[[object], str]):
        began = time.perf_counter()
        result = action()
        self.rows.append([label, describe(result), f'{1000 * (time.perf_counter() - began):,.0f} ms'])
        return result


def run(args: argparse.Namespace) -> None:
    import zoo
    for module in ('torch', 'onnx', 'pnnx'):
        require(module, 'all')  # said before the work
    from zoo.export.artefact import export
    from zoo.export.pack import is_recogniser_size
    from zoo.model_card import weights_of
    from zoo.runtime.torch import open_torch
    steps = _Steps()
    embedder = steps(f'load {args.model}', lambda: open_torch(args.model),
                     lambda e: f'{sum(p.numel() for p in e.model.parameters()) / 1e6:.2f} M parameters, sha256 verified')
    if not (weights := weights_of(args.model)):
        raise ValueError(f'{args.model}: the demo needs the threshold of a card; name a model of `facezoo list --trained`')
    model, threshold = embedder.model, weights.thresholds['1e-3']
    faces = steps('faces', lambda: _faces(args.faces, model.preprocess.input_size), lambda f: f'{len(f)} aligned faces')
    embeddings = steps('recognise', lambda: _embed(embedder, faces), lambda e: f'{e.shape[1]}-d embeddings')
    args.out.mkdir(parents=True, exist_ok=True)
    for to, out in (('onnx', f'{args.model}.onnx'), ('ncnn', 'ncnn'), ('pack', 'insightface')):
        if to == 'pack' and not is_recogniser_size(model.preprocess.input_size):
            continue
        steps(f'export {to}', lambda to=to, out=out: export(model, args.model, to, args.out / out),
              lambda s: f'{s["bytes"] / 1e6:.2f} MB, minimum cosine to PyTorch {s["parity"]["min_cosine"]:.7f}')
    for to, path in (('onnx', args.out / f'{args.model}.onnx'), ('ncnn', args.out / 'ncnn')):
        steps(f'run {to}', lambda path=path: _embed(zoo.open(path), faces),
              lambda e: f'same faces, largest similarity difference {np.abs(e @ e.T - embeddings @ embeddings.T).max():.1e}')
    picture = args.out / 'similarity.png'
    steps('picture', lambda: _draw(faces, embeddings @ embeddings.T, threshold, picture), lambda _: str(picture))
    if not args.faces:
        _system(args, steps, threshold)
    print(format_table(['step', 'result', 'time'], steps.rows))


def _system(args: argparse.Namespace, steps: _Steps, threshold: float) -> None:
    """The whole chain on the group photo: detector, alignment, gallery, names."""
    from zoo.pipeline.gallery import Gallery
    from zoo.pipeline.pictures import read_picture
    from zoo.pipeline.recogniser import open_pipeline, recognise
    from zoo.pipeline.sample import sample_image
    picture = read_picture(sample_image())
    pipeline = open_pipeline(args.model, args.detector)
    gallery = Gallery(pipeline.contract())
    mirrored = steps('detect', lambda: pipeline(np.ascontiguousarray(picture[:, ::-1])), lambda s: f'{len(s.faces)} faces')
    for number, face in enumerate(sorted(mirrored.faces, key=lambda face: -face.box[0])[::2]):
        gallery.add(f'Person {2 * number + 1}', face.embedding, ['mirrored'])
    scene = steps('recognise', lambda: recognise(pipeline(picture), gallery, threshold),
                  lambda s: f'{sum(face.name is not None for face in s.faces)} of {len(s.faces)} faces known')
    steps('draw', lambda: _write(args.out / 'recognised.jpg', scene), lambda path: str(path))


def _write(path: Path, scene) -> Path:
    from plugins.files import write_atomic
    from zoo.pipeline.draw import draw_scene
    write_atomic(path, encode_image(draw_scene(scene)))
    return path


def _faces(paths: list[Path], size: int) -> np.ndarray:
    from plugins.data.sources import shrink_crop
    from zoo.pipeline.sample import sample_crops
    if not paths:
        return sample_crops(size)
    return np.stack([shrink_crop(decode_image(path.read_bytes(), str(path)), size, str(path)) for path in paths])


def _embed(embedder, faces: np.ndarray) -> np.ndarray:
    """Of unit length; each face and its mirror image together, as the threshold was measured."""
    (sums, _), = embed_batches(embedder, [faces])
    return l2_normalise(sums)


def _draw(faces: np.ndarray, similarity: np.ndarray, threshold: float, path: Path) -> None:
    """Faces along both sides, their cosine similarities between; green where it says "same person" at FAR 1e-3."""
    import cv2

    from plugins.files import write_atomic
    count = len(faces)
    sheet = np.full(((count + 1) * _CELL, (count + 1) * _CELL, 3), 255, np.uint8)
    for i, face in enumerate(faces):
        begin, end = (i + 1) * _CELL, (i + 2) * _CELL
        sheet[:_CELL, begin:end] = sheet[begin:end, :_CELL] = cv2.resize(face, (_CELL, _CELL))
        for j in range(count):
            value = float(similarity[i, j])
            colour = (190, 235, 190) if value > threshold else (240, 240, 240)
            left, top = (j + 1) * _CELL, (i + 1) * _CELL
            cv2.rectangle(sheet, (left + 2, top + 2), (left + _CELL - 3, top + _CELL - 3), colour, -1)
            cv2.putText(sheet, f'{value:.2f}', (left + 26, top + 63), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (30, 30, 30), 2,
                        cv2.LINE_AA)
    write_atomic(path, encode_image(sheet, '.png'))
