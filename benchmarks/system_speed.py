"""Our pipeline beside InsightFace's FaceAnalysis: same ONNX files, same pictures, same threads, measured in turns.

  facezoo export retinaface_mnet025 --to onnx --out build/det.onnx
  facezoo export fdfacenet --to onnx --out build/rec.onnx
  python benchmarks/system_speed.py --detector build/det.onnx --recogniser build/rec.onnx --out results/system_speed.json
  python benchmarks/system_speed.py --detector build/det.onnx --recogniser build/rec.onnx --threads 2 \\
      --out results/system_speed_2_threads.json

Pictures: the group photo that the insightface package ships with its six faces, the same cut to one face, and tiled to 24.
The two take turns picture by picture, and the median of the ratios is reported: a busy machine slows both alike.

Needs: nothing
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from plugins.files import sha256_file, write_atomic
from plugins.preprocess import Preprocess
from zoo.export.pack import write_pack
from zoo.pipeline.pictures import read_picture
from zoo.pipeline.recogniser import Pipeline
from zoo.pipeline.sample import sample_image
from zoo.runtime import open_embedder
from zoo.runtime.detector import open_detector


def pictures(detector) -> dict[str, np.ndarray]:
    """Name to picture, uint8 RGB, all with a longest side of 640 pixels but the tiled one."""
    import cv2
    group = read_picture(sample_image())
    left, top, right, bottom = detector(group).boxes[0]
    side = right - left
    one = group[max(0, int(top - 2 * side)):int(bottom + 2 * side), max(0, int(left - side)):int(right + side)]
    half = cv2.resize(group, (640, 443), interpolation=cv2.INTER_AREA)
    quarter = cv2.resize(group, (320, 222), interpolation=cv2.INTER_AREA)
    return {'one face': one, 'six faces': half, '24 faces': np.tile(np.pad(quarter, ((0, 98), (0, 0), (0, 0))), (2, 2, 1))}


def face_analysis(args: argparse.Namespace, root: str, score: float):
    from insightface.app import FaceAnalysis
    write_pack(root, 'facezoo', args.recogniser, Preprocess(), 512, 'benchmark', detector=args.detector)
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    made = FaceAnalysis('facezoo', root=root, providers=['CPUExecutionProvider'], sess_options=options)
    made.prepare(ctx_id=-1, det_size=(640, 640), det_thresh=score)
    return made


def timed(function, picture) -> tuple[float, int]:
    began = time.perf_counter()
    found = function(picture)
    return 1000 * (time.perf_counter() - began), len(found)


def stages(pipeline: Pipeline, picture: np.ndarray) -> dict[str, float]:
    """Milliseconds of detection, alignment with the quality gate, and embedding."""
    marks = [time.perf_counter()]
    pipeline.detector(picture)
    marks.append(time.perf_counter())
    detected = pipeline.detect(picture)
    marks.append(time.perf_counter())
    pipeline.embed([detected])
    marks.append(time.perf_counter())
    detect, align, embed = (1000 * (b - a) for a, b in pairwise(marks))
    return {'detect': detect, 'align': max(0.0, align - detect), 'embed': embed}


def compare(ours: Pipeline, theirs, picture: np.ndarray, rounds: int) -> dict:
    """Medians over the rounds, ours and theirs in turns."""
    bgr = np.ascontiguousarray(picture[..., ::-1])
    rows, parts = [], []
    for _ in range(rounds + 2):
        (mine, found), (other, other_found) = timed(lambda p: ours(p).faces, picture), timed(theirs.get, bgr)
        parts.append(stages(ours, picture))
        rows.append((mine, other))
    rows = np.array(rows[2:])
    return {'faces': found, 'faces_insightface': other_found,
            'ms': round(float(np.median(rows[:, 0])), 2), 'ms_insightface': round(float(np.median(rows[:, 1])), 2),
            'ratio': round(float(np.median(rows[:, 1] / rows[:, 0])), 2),
            'ratio_quartiles': [round(float(q), 2) for q in np.percentile(rows[:, 1] / rows[:, 0], [25, 75])],
            'stages_ms': {key: round(float(np.median([p[key] for p in parts[2:]])), 2) for key in parts[0]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--detector', type=Path, required=True)
    parser.add_argument('--recogniser', type=Path, required=True)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument('--out', type=Path, default=Path('results/system_speed.json'))
    args = parser.parse_args()
    detector = open_detector(args.detector, args.threads)
    ours = Pipeline(detector, open_embedder(args.recogniser, args.threads), flip=False)
    with tempfile.TemporaryDirectory() as root:
        theirs = face_analysis(args, root, detector.threshold)
        figures = {name: compare(ours, theirs, picture, args.rounds) for name, picture in pictures(detector).items()}
    report = {'pictures': figures, 'threads': args.threads, 'rounds': args.rounds, 'flip': False, 'score': detector.threshold,
              'load_average': os.getloadavg(),
              'peak_memory_mb_of_both': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
              'machine': platform.machine(), 'cores': os.cpu_count(),
              'sha256': {kind: sha256_file(getattr(args, kind)) for kind in ('detector', 'recogniser')},
              'versions': {p: importlib.metadata.version(p) for p in ('insightface', 'onnxruntime', 'numpy')},
              'conditions': 'medians over the rounds, the two in turns on the same picture; FaceAnalysis at det_size 640x640 '
                            'pads to a square, our pipeline to multiples of 32',
              'date': datetime.date.today().isoformat()}
    write_atomic(args.out, json.dumps(report, indent=2) + '\n')
    print(json.dumps(report, indent=2))


if __name__ == '__main__':
    main()
