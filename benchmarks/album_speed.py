"""Pictures and frames a second with all cores: albums beside InsightFace's FaceAnalysis, same ONNX files; a video.

  python benchmarks/album_speed.py --onnx build/det.onnx,build/rec.onnx --onnx-int8 build/det8.onnx,build/rec8.onnx \\
      --ncnn build/det_ncnn,build/rec_ncnn --ncnn-bf16 build/det_ncnn,build/rec16_ncnn \\
      --ncnn-int8 build/det8_ncnn,build/rec8_ncnn --out results/album_speed.json
  python benchmarks/album_speed.py --onnx build/det.onnx,build/rec.onnx --onnx-int8 build/det8.onnx,build/rec8.onnx \\
      --ncnn build/det_ncnn,build/rec_ncnn --ncnn-bf16 build/det_ncnn,build/rec16_ncnn \\
      --ncnn-int8 build/det8_ncnn,build/rec8_ncnn --rounds 4 --out results/album_speed_avx2.json

Needs: build (the models of system_speed.py)

The second command was run on a processor with AVX2 alone (no AVX512, no VNNI).

The pictures are those of system_speed.py, as JPEG files; each system reads them, finds the faces and embeds them. FaceAnalysis
uses several cores in one way, by its runtime's threads; our pipeline can do that too, or work on several pictures at a time (as
`facezoo recognise` does with a folder, and `facezoo watch` with frames). Each system runs in a process of its own; the systems
take turns, and the median of the ratios is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from command_line import command_line
from system_speed import SCORE, THEIRS, add_models, facts, pictures, started, systems
from video_speed import video_speed

from plugins.files import write_atomic
from plugins.preprocess import encode_image
from zoo.bench import Worker
from zoo.runtime.detector import open_detector
from zoo.tables import format_table

SHOWN = ('one face', 'six faces', '24 faces')


def variants(system: dict, cores: int) -> list[dict]:
    """The ways in which a system uses the cores; FaceAnalysis has one."""
    by_threads = {**system, 'label': f'{system["name"]}, {cores} threads', 'threads': cores}
    side_by_side = {**system, 'label': f'{system["name"]}, {cores} pictures at a time', 'threads': 1, 'workers': cores}
    return [by_threads] if system['name'] == THEIRS else [by_threads, side_by_side]


def measure(workers: list[Worker], files: list[str], rounds: int) -> dict[str, dict]:
    """By system: pictures a second, and its ratio to the first system's, medians over the rounds."""
    question, rates = json.dumps({'album': files}), [[] for _ in workers]
    faces = [sum(worker.ask(question)['faces']) for worker in workers]
    for turn in range(rounds):
        for index in np.roll(np.arange(len(workers)), -turn):
            rates[index].append(len(files) / workers[index].ask(question)['seconds'])
    found = {}
    for worker, row, count in zip(workers, rates, faces, strict=True):
        ratios = np.array(row) / np.array(rates[0])
        found[worker.label] = {'faces': count / len(files), 'pictures_a_second': round(float(np.median(row)), 1),
                               'ratio': round(float(np.median(ratios)), 2),
                               'ratio_quartiles': [round(float(q), 2) for q in np.percentile(ratios, [25, 75])]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_models(parser)
    parser.add_argument('--cores', type=int, default=os.cpu_count())
    parser.add_argument('--album', type=int, default=12, metavar='N', help='pictures a turn')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--out', type=Path, default=Path('results/album_speed.json'))
    args = parser.parse_args()
    args.threads, figures = args.cores, {}
    shown = pictures(open_detector(args.onnx[0], args.cores, threshold=SCORE))
    shown = {name: shown[name] for name in SHOWN}
    with tempfile.TemporaryDirectory() as root:
        chosen = [one for each in systems(args, root) for one in variants(each, args.cores)]
        with started(chosen, shown) as workers:
            for name, picture in shown.items():
                file = Path(root, f'{name}.jpg')
                file.write_bytes(encode_image(picture))
                figures[name] = measure(workers, [str(file)] * args.album, args.rounds)
    video = video_speed(*args.onnx, args.cores, SCORE)
    report = {'command': command_line(__doc__), 'pictures': figures,
              'video': video, 'sizes': {name: picture.shape[:2] for name, picture in shown.items()}, 'cores': args.cores,
              'album': args.album, **facts(args),
              'conditions': 'JPEG files read from the cache of the system; FaceAnalysis at det_size 640x640; medians over the '
                            'rounds, by the clock, the systems in turns'}
    write_atomic(args.out, json.dumps(report, indent=1) + '\n')
    print(format_table(['picture', 'system', 'faces', 'pictures a second', 'ratio'], [
        [picture, name, *(str(row[key]) for key in ('faces', 'pictures_a_second', 'ratio'))]
        for picture, rows in figures.items() for name, row in rows.items()]))
    print(json.dumps(video, indent=1))


if __name__ == '__main__':
    main()
