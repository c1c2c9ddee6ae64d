"""Our pipeline beside InsightFace's FaceAnalysis: same ONNX files, same pictures, same threads, measured in turns.

  facezoo export retinaface_mnet025 --to onnx --out build/det.onnx
  facezoo export retinaface_mnet025 --to ncnn --out build/det_ncnn
  facezoo export retinaface_mnet025 --to onnx --precision int8 --calib pictures --out build/det8.onnx
  facezoo export retinaface_mnet025 --to ncnn --precision int8 --calib pictures --out build/det8_ncnn
  facezoo export fdfacenet --to onnx --out build/rec.onnx
  facezoo export fdfacenet --to ncnn --out build/rec_ncnn
  facezoo export fdfacenet --to ncnn --precision bf16 --gate-set val.bin --out build/rec16_ncnn
  facezoo export fdfacenet --to onnx --precision int8 --calib faces_train.zip --gate-set val.bin --out build/rec8.onnx
  facezoo export fdfacenet --to ncnn --precision int8 --calib faces_train.zip --gate-set val.bin --out build/rec8_ncnn
  python benchmarks/system_speed.py --onnx build/det.onnx,build/rec.onnx --onnx-int8 build/det8.onnx,build/rec8.onnx \\
      --ncnn build/det_ncnn,build/rec_ncnn --ncnn-bf16 build/det_ncnn,build/rec16_ncnn \\
      --ncnn-int8 build/det8_ncnn,build/rec8_ncnn --out results/system_speed.json

Needs: pictures (a folder or zip of pictures of people), faces_train.zip (aligned faces to calibrate on), val.bin (6000
pairs of identities not trained on)

Pictures: the group photo of six faces that the insightface package ships, the same photo cut to one face, tiled to 24 faces,
and small; and the tiled one with all but 1, 2, 4, ... faces painted over, so that only the number of faces grows. Each system
runs in a process of its own. The systems take turns picture by picture, so that a busy machine slows all alike, and the median
of the ratios is reported.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from command_line import command_line

from plugins.extras import installed_versions
from plugins.files import sha256_file, write_atomic
from plugins.preprocess import Preprocess
from zoo.bench import Worker, machine
from zoo.export.pack import write_pack
from zoo.pipeline.pictures import read_picture
from zoo.pipeline.sample import sample_crops, sample_image
from zoo.progress import progress_bar
from zoo.runtime import open_embedder
from zoo.runtime.detector import open_detector
from zoo.tables import format_table

SCORE = 0.75  # lowest score of a face, of all
GROWTH, BATCHES = (1, 2, 4, 8, 16, 24), (1, 2, 4, 8, 16, 32, 48)
THEIRS, OURS = 'FaceAnalysis', 'onnxruntime'
SYSTEMS = {'onnx': OURS, 'onnx-int8': f'{OURS}, 8 bits', 'ncnn': 'NCNN', 'ncnn-bf16': 'NCNN, recogniser in bf16',
           'ncnn-int8': 'NCNN, 8 bits'}  # option: name


def pictures(detector) -> dict[str, np.ndarray]:
    """Name to picture, uint8 RGB."""
    import cv2
    group = read_picture(sample_image())
    left, top, right, bottom = detector(group).boxes[0]
    side = right - left
    one = group[max(0, int(top - 2 * side)):int(bottom + 2 * side), max(0, int(left - side)):int(right + side)]
    half = cv2.resize(group, (640, 443), interpolation=cv2.INTER_AREA)
    quarter = cv2.resize(group, (320, 222), interpolation=cv2.INTER_AREA)
    tiled = np.tile(np.pad(quarter, ((0, 98), (0, 0), (0, 0))), (2, 2, 1))
    return {'one face': one, 'six faces': half, '24 faces': tiled, 'six small faces': quarter} | {
        f'{number} of 24 faces': painted_over(tiled, detector(tiled).boxes, number) for number in GROWTH}


def painted_over(picture: np.ndarray, boxes: np.ndarray, number: int) -> np.ndarray:
    """The picture with all faces but the first ``number`` painted over in its mean colour."""
    found = picture.copy()
    for left, top, right, bottom in boxes[number:].astype(int):
        margin = (right - left) // 5
        found[max(0, top - margin):bottom + margin, max(0, left - margin):right + margin] = picture.mean((0, 1))
    return found


def add_models(parser: argparse.ArgumentParser) -> None:
    """An option for each of :data:`SYSTEMS`."""
    for key, name in SYSTEMS.items():
        parser.add_argument(f'--{key}', metavar='DETECTOR,RECOGNISER', required=name == OURS,
                            type=lambda text: tuple(map(Path, text.split(','))))


def systems(args: argparse.Namespace, root: str) -> list[dict]:
    """What is compared; the first one is what ratios are taken to."""
    detector, recogniser = args.onnx
    write_pack(root, 'facezoo', recogniser, Preprocess(), 512, 'benchmark', detector=detector)
    given = {name: getattr(args, key.replace('-', '_')) for key, name in SYSTEMS.items()}
    ours = [{'name': name, 'detector': str(pair[0]), 'recogniser': str(pair[1])} for name, pair in given.items() if pair]
    shared = {'root': root, 'pictures': f'{root}/pictures.npz', 'threads': args.threads, 'score': SCORE}
    return [shared | system for system in [{'name': THEIRS}, *ours]]


@contextmanager
def started(chosen: list[dict], shown: dict[str, np.ndarray]) -> Iterator[list[Worker]]:
    """A process for each system, which has the pictures; closed in the end."""
    np.savez(chosen[0]['pictures'], **shown)
    workers: list[Worker] = []
    try:
        for system in chosen:
            command = [sys.executable, str(Path(__file__).with_name('system_worker.py')), json.dumps(system)]
            workers.append(Worker(system.get('label', system['name']), command, system['threads']))
        yield workers
    finally:
        for worker in workers:
            worker.close()


def facts(args: argparse.Namespace) -> dict:
    """What the figures depend on, whatever was measured."""
    return {'rounds': args.rounds, 'flip': False, 'score': SCORE,
            'sha256': dict(zip(('detector', 'recogniser'), map(sha256_file, args.onnx), strict=True)),
            'versions': installed_versions(('insightface', 'opencv-python-headless')), 'machine': machine()}


def measure(workers: list[Worker], picture: str, rounds: int) -> dict[str, dict]:
    """By system: medians of a call and its stages, faces, ratio of the first system's time to its own."""
    first = [worker.ask(json.dumps({'picture': picture, 'calls': 2, 'found': True})) for worker in workers]
    calls: list[list[dict]] = [[] for _ in workers]
    for turn in range(rounds):
        for index in np.roll(np.arange(len(workers)), -turn):
            calls[index] += workers[index].ask(json.dumps({'picture': picture, 'calls': 1}))['calls']
    found = {}
    for worker, rows, seen in zip(workers, calls, first, strict=True):
        ratios, cpu_ratios = ([a[key] / b[key] for a, b in zip(calls[0], rows, strict=True)] for key in ('ms', 'cpu_ms'))
        found[worker.label] = {
            'faces': seen['faces'], 'ratio': _round(np.median(ratios)),
            'ratio_quartiles': [_round(q) for q in np.percentile(ratios, [25, 75])], 'ratio_cpu': _round(np.median(cpu_ratios)),
            **{stage: _round(np.median([row[stage] for row in rows])) for stage in rows[0] if rows[0][stage] is not None},
            'min_cosine': least_cosine(first[0], seen)}
    return found


def least_cosine(reference: dict, found: dict) -> float | None:
    """Smallest cosine of the embeddings of the same faces, those whose boxes have the nearest middles."""
    if not reference['faces'] or not found['faces']:
        return None
    middles = [np.array(facts['boxes']).reshape(-1, 2, 2).mean(1) for facts in (reference, found)]
    nearest = np.square(middles[1][:, None] - middles[0][None]).sum(2).argmin(1)
    cosines = (np.array(found['embeddings']) * np.array(reference['embeddings'])[nearest]).sum(1)
    return round(float(cosines.min()), 5)


def growth(figures: dict[str, dict]) -> dict[str, dict[str, float]]:
    """By system, least squares over :data:`GROWTH`: milliseconds of processor time without faces, and for each further face."""
    found = {}
    for name in figures['24 faces']:
        rows = [figures[f'{number} of 24 faces'][name] for number in GROWTH]
        slope, constant = np.polyfit([row['faces'] for row in rows], [row['cpu_ms'] for row in rows], 1)
        found[name] = {'cpu_ms_a_face': _round(slope), 'cpu_ms_without_faces': _round(constant)}
    return found


def batch_table(recognisers: dict[str, Path], threads: int, rounds: int) -> dict[str, dict[int, float]]:
    """Milliseconds of processor time a face by number of faces embedded at once, 48 faces in all, medians of turns."""
    faces = np.concatenate([sample_crops()] * 8)
    found = {}
    for name, path in recognisers.items():
        embedder, times = open_embedder(path, threads), {batch: [] for batch in BATCHES}
        for _ in range(rounds):
            for batch, row in times.items():
                began = time.process_time()
                for start in range(0, len(faces), batch):
                    embedder(faces[start:start + batch])
                row.append(1000 * (time.process_time() - began) / len(faces))
        found[name] = {batch: _round(np.median(row[1:])) for batch, row in times.items()}
    return found


def _round(value: float) -> float:
    return round(float(value), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_models(parser)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument('--out', type=Path, default=Path('results/system_speed.json'))
    args = parser.parse_args()
    shown, figures = pictures(open_detector(args.onnx[0], args.threads, threshold=SCORE)), {}
    with tempfile.TemporaryDirectory() as root, started(systems(args, root), shown) as workers:
        with progress_bar(len(shown), 'pictures', 'system speed') as bar:
            for name in shown:
                figures[name] = measure(workers, name, args.rounds)
                bar.update(1)
        question = json.dumps({'picture': '24 faces', 'calls': 1})
        memory = {worker.label: round(worker.ask(question)['peak_mb']) for worker in workers}
    recognisers = {OURS: args.onnx[1]} | ({f'{OURS}, 8 bits': args.onnx_int8[1]} if args.onnx_int8 else {})
    report = {'command': command_line(__doc__), 'pictures': figures,
              'sizes': {name: picture.shape[:2] for name, picture in shown.items()},
              'growth': growth(figures), 'peak_mb': memory,
              'cpu_ms_a_face_by_batch': batch_table(recognisers, args.threads, args.rounds),
              'threads': args.threads, **facts(args),
              'conditions': 'medians over the rounds (ms by the clock, cpu_ms of processor time, which other programs on the '
                            'machine hardly lengthen), the systems in turns on the same picture, each in its own process; '
                            'FaceAnalysis at det_size 640x640 enlarges and pads to a square, our pipeline never enlarges and '
                            'pads to multiples of 32; kernels: the part spent inside onnxruntime; embed of FaceAnalysis '
                            'and align of both as the pipelines divide them'}
    write_atomic(args.out, json.dumps(report, indent=1) + '\n')
    print(format_table(['picture', 'system', *(columns := list(figures['one face'][THEIRS]))], [
        [picture, name, *(str(facts.get(column, '')) for column in columns)]
        for picture, rows in figures.items() for name, facts in rows.items()]))
    print(json.dumps({key: report[key] for key in ('growth', 'peak_mb', 'cpu_ms_a_face_by_batch')}, indent=1))


if __name__ == '__main__':
    main()
