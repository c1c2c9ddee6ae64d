"""An exported pack in several unmodified versions of InsightFace: the same faces and embeddings as in facezoo's own pipeline?

    for v in 0.7.3 1.0.1 2.1; do python -m venv if-$v; if-$v/bin/pip install insightface==$v onnxruntime; done
    python benchmarks/packs.py --python if-0.7.3/bin/python --python if-1.0.1/bin/python --python if-2.1/bin/python

Writes results/packs.json. The pack's detector is a stand-in in InsightFace's nine-output format that always reports the six
faces of the sample photo in their places: the pack is tested, not the finding of faces. The half of this file below "inside"
runs in InsightFace's own environment and imports nothing of facezoo.

Needs: if-0.7.3/bin/python (an environment with that InsightFace), if-1.0.1/bin/python (another), if-2.1/bin/python (another)
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from command_line import command_line

ROOT = Path(__file__).parents[1]
SIDE, STRIDES = 640, (8, 16, 32)
ALIKE = 0.999  # landmarks pass through float32 and two implementations of the similarity transform


# --- inside InsightFace's environment

def inside(root: str, name: str, picture: str, crops: str) -> None:
    """Load the pack in every way that its users do; the answer is printed as the last line."""
    import cv2
    import insightface
    from insightface.app import FaceAnalysis
    app = FaceAnalysis(name, root=root, providers=['CPUExecutionProvider'])
    app.prepare(ctx_id=-1, det_size=(SIDE, SIDE))
    faces = sorted(app.get(cv2.imread(picture)), key=lambda face: face.kps[0, 0])
    model = insightface.model_zoo.get_model(str(Path(root) / 'models' / name / f'{name}.onnx'),
                                            providers=['CPUExecutionProvider'])
    images = [np.ascontiguousarray(image[..., ::-1]) for image in np.load(crops)]  # BGR, as InsightFace takes it
    batch, single = model.get_feat(images), np.concatenate([model.get_feat(image) for image in images])
    print('\n' + json.dumps({
        'insightface': insightface.__version__, 'numpy': np.__version__,
        'tasks': {task: type(part).__name__ for task, part in app.models.items()},
        'normalisation': [model.input_mean, model.input_std], 'faces': [face.embedding.tolist() for face in faces],
        'batch': batch.tolist(), 'single': single.tolist()}))


# --- on facezoo's side

def sample_detector(path: Path) -> None:
    """ONNX file of a detector's form (static 640x640, nine outputs) that reports the faces of the sample photo."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from zoo.pipeline import sample
    facts = json.loads(sample._FACTS.read_text())
    landmarks = np.array(facts['landmarks'], np.float64) * _letterbox()
    outputs: dict[str, np.ndarray] = {}
    for kind, width in (('score', 1), ('bbox', 4), ('kps', 10)):
        for stride in STRIDES:
            outputs[f'{kind}_{stride}'] = np.zeros(((SIDE // stride) ** 2 * 2, width), np.float32)
    for points in landmarks:
        stride = 16
        low, high = points.min(0) - 10, points.max(0) + 10
        column, row = np.round((low + high) / 2 / stride).astype(int)
        anchor, centre = (row * (SIDE // stride) + column) * 2, np.array([column, row]) * stride
        outputs[f'score_{stride}'][anchor] = 0.9
        outputs[f'bbox_{stride}'][anchor] = np.concatenate([centre - low, high - centre]) / stride
        outputs[f'kps_{stride}'][anchor] = ((points - centre) / stride).ravel()
    nodes = [helper.make_node('Constant', [], [name], name=f'out_{name}', value=numpy_helper.from_array(value, name))
             for name, value in outputs.items()]
    graph = helper.make_graph(
        nodes, 'sample_detector', [helper.make_tensor_value_info('image', TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in outputs.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=7), path)


def _letterbox() -> float:
    """By what InsightFace scales the sample photo to fit the detector's square."""
    from plugins.preprocess import decode_image
    from zoo.pipeline.sample import sample_image
    height, width = decode_image(sample_image().read_bytes()).shape[:2]
    return SIDE / max(height, width)


def cosines(a, b) -> np.ndarray:
    a, b = np.asarray(a), np.asarray(b)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def compare(answer: dict, ours: np.ndarray) -> dict:
    """What one version of InsightFace made of the pack."""
    strangers = float(max(cosines(ours, np.roll(ours, 1, 0))))
    found = {'tasks': answer['tasks'], 'normalisation': answer['normalisation'], 'faces': len(answer['faces']),
             'numpy': answer['numpy'], 'most_alike_strangers': strangers}
    if len(answer['faces']) == len(ours):
        found['min_cosine_faceanalysis'] = float(cosines(answer['faces'], ours).min())
    found['min_cosine_get_feat'] = float(cosines(answer['single'], ours).min())
    found['batch_against_single'] = float(np.abs(np.subtract(answer['batch'], answer['single'])).max())
    alike = min(found.get('min_cosine_faceanalysis', 0.0), found['min_cosine_get_feat'])
    found['passed'] = bool(answer['tasks'].get('recognition') == 'ArcFaceONNX' and 'detection' in answer['tasks']
                           and alike > max(ALIKE, strangers) and found['batch_against_single'] < 1e-4)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--python', action='append', default=[], help='interpreter with one version of InsightFace')
    parser.add_argument('--model', default='fdfacenet', help='model of the zoo, or a weights file')
    parser.add_argument('--network', help='backbone of a weights file that does not name it')
    parser.add_argument('--inside', nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        inside(*args.inside)
        return 0
    import zoo
    from zoo.export.artefact import export
    from zoo.pipeline.sample import sample_crops, sample_image
    from zoo.runtime.torch import TorchEmbedder
    model, crops, versions = zoo.load(args.model, network=args.network), sample_crops(), {}
    name = Path(args.model).stem
    with tempfile.TemporaryDirectory() as work:
        sample_detector(Path(work) / 'found.onnx')
        export(model, name, 'pack', work, detector=Path(work) / 'found.onnx')
        np.save(Path(work) / 'crops.npy', crops)
        ours = TorchEmbedder(model, model.preprocess, name)(crops)
        for python in args.python:
            done = subprocess.run([python, __file__, '--inside', work, name, str(sample_image()), f'{work}/crops.npy'],
                                  capture_output=True, text=True, cwd=work)
            if done.returncode:
                print(done.stdout[-2000:], done.stderr[-4000:])
                versions[python] = {'passed': False, 'error': done.stderr.strip().splitlines()[-1]}
                continue
            answer = json.loads(done.stdout.splitlines()[-1])
            versions[answer['insightface']] = compare(answer, ours)
    report = {'command': command_line(__doc__), 'date': time.strftime('%Y-%m-%d'), 'model': name,
              'insightface': versions}
    print(json.dumps(report, indent=2))
    (ROOT / 'results' / 'packs.json').write_text(json.dumps(report, indent=2) + '\n')
    return 0 if versions and all(version['passed'] for version in versions.values()) else 1


if __name__ == '__main__':
    sys.exit(main())
