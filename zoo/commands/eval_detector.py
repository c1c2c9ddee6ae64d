"""Average precision of a detector on WIDER FACE, FDDB or a label file, with the arithmetic of the official evaluations.

  facezoo eval-detector retinaface_mnet025 --truth eval_tools/ground_truth --pictures WIDER_val/images     easy, medium, hard
  facezoo eval-detector det.onnx --truth wider_face_split/wider_face_val_bbx_gt.txt --pictures WIDER_val/images
  facezoo eval-detector ncnn_folder --truth FDDB-folds --pictures originalPics      also discrete ROC, and mean of the folds
  facezoo eval-detector det.onnx --truth label.txt --pictures images.zip --size 640 --json

The names of the annotation files tell which kind they are. Pictures keep their own size unless --size is given.
"""

from __future__ import annotations

import argparse
import json
import math
import time

from zoo.commands.options import number
from zoo.tables import format_table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('model', metavar='MODEL', help="a detector of the zoo, a weights file, .onnx (InsightFace's, too), "
                                                       '.param or its folder')
    parser.add_argument('--truth', required=True, metavar='PATH', help='annotations: a file, or the folder with them')
    parser.add_argument('--pictures', required=True, metavar='FOLDER', help='folder or zip of the pictures')
    parser.add_argument('--size', type=number(int, 1), metavar='PIXELS', help='scale larger pictures down to this longest side')
    parser.add_argument('--score', type=number(float, 0, 1), metavar='SCORE',
                        help='the score at which recall, precision and false alarms are stated, 0 to 1; by default the '
                             "card's, or InsightFace's 0.5")
    parser.add_argument('--threads', type=number(int, 0), default=0, metavar='N',
                        help='threads of the runtime; 0: its own choice')
    parser.add_argument('--json', action='store_true', help='print the figures as JSON')


def run(args: argparse.Namespace) -> None:
    from zoo.evaluate.detection_run import LOWEST, detect_pictures, summarise
    from zoo.evaluate.detection_sets import open_detection_set
    from zoo.jetson.decode import OVERLAP
    from zoo.runtime.detector import FaceDetector, open_detector
    data = open_detection_set(args.truth)
    opened = open_detector(args.model, args.threads, args.size or math.inf, args.score)
    began = time.perf_counter()
    detections = detect_pictures(FaceDetector(opened.net, opened.size, LOWEST), data, args.pictures, progress=True)
    size = f'longest side at most {opened.size} pixels' if opened.size < math.inf else 'original size'
    report = {'model': str(args.model), 'set': data.name, 'pictures': len(data.faces), 'score': opened.threshold,
              'conditions': f'{size}, EXIF orientation ignored, detections from score {LOWEST:g}, suppressed at overlap '
                            f'{OVERLAP:g}, hits at overlap 0.5', **summarise(data, detections, opened.threshold)}
    seconds = time.perf_counter() - began
    if args.json:
        print(json.dumps({**report, 'seconds': round(seconds, 2)}, indent=2))
        return
    print(f'{report["model"]} on {data.name}: {len(data.faces)} pictures, {report["conditions"]}; {seconds:.1f} s\n')
    _show(report)


def _show(report: dict) -> None:
    rows = [[subset, r['faces'], f'{100 * r["ap"]:.2f}', f'{100 * r["recall"]:.2f}', f'{100 * r["precision"]:.2f}',
             f'{r["false_alarms"]:.3f}'] for subset, r in report['subsets'].items()]
    print(format_table(['subset', 'faces', 'AP %', f'recall % at {report["score"]:g}', 'precision %', 'false alarms a picture'],
                       rows))
    if 'discrete_roc' in report:
        print(f'\nmean AP of the folds: {100 * report["mean_ap_of_folds"]:.2f} %')
        print('discrete ROC: ' + ', '.join(f'{100 * rate:.2f} % of the faces at {count} false alarms'
                                          for count, rate in report['discrete_roc'].items()))
