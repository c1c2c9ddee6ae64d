"""A detector on its way into a TensorRT bundle: in 16 bits, for pictures of any shape, checked on the sample picture."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plugins.faces import Faces
from plugins.files import npz_bytes
from plugins.preprocess import PictureNorm
from zoo.export.graph import Activations, Graph, computes_in_integers
from zoo.export.lint import Finding, lint, require_buildable
from zoo.export.parity import GateError
from zoo.export.target import Target, TargetError
from zoo.export.variants import half_variant
from zoo.jetson.decode import fit
from zoo.jetson.detector import agrees, compare
from zoo.pipeline.pictures import read_picture
from zoo.pipeline.sample import sample_image
from zoo.runtime.detector import FaceDetector
from zoo.runtime.onnx import OnnxDetector

__all__ = ['ACCEPT', 'BoardDetector', 'board_detector']

PRECISION = 'fp16'
COMMON, LARGEST = (384, 640), 640  # height and width of a 16:9 camera's picture in multiples of 64; longest side of any picture
# what a detection may lose in 16 bits: overlap of the boxes, landmarks as a fraction of the eye distance
ACCEPT = {'min_iou': 0.9, 'landmark_error': 0.05}
GRAPH, SAMPLE = 'detector.onnx', 'detector.npz'


@dataclass(frozen=True)
class BoardDetector:
    """What a detector adds to a bundle.

    Attributes:
        facts: what its engine is built from and how its outputs are read, for ``bundle.json``.
        files: by name.
        findings: of the lint.
        report: agreement of the 16-bit arithmetic with the original on the sample picture, for the sidecar.
    """

    facts: dict
    files: dict[str, bytes]
    findings: list[Finding]
    report: dict


def board_detector(path: Path, target: Target) -> BoardDetector:
    """Prepare an ONNX detector of InsightFace's output contract, as ``facezoo export retinaface_mnet025 --to onnx`` writes it.

    Raises:
        TargetError: the target has no 16 bits.
        LintError: TensorRT cannot build the graph there.
        GateError: 16 bits change what it finds.
        ValueError: not a detector, one in 8 bits, or one for pictures of one size.
    """
    if PRECISION not in target.native:
        raise TargetError(f'{target.name} has no {PRECISION}, in which the detector is built; leave out --detector')
    net, graph = OnnxDetector(path), Graph.load(path)
    if computes_in_integers(path):
        raise ValueError(f'{path}: a detector in 8 bits is for ONNX Runtime and NCNN; for a bundle give the file that '
                         '`facezoo export retinaface_mnet025 --to onnx` writes without --precision')
    if net.side:
        raise ValueError(f'{path}: takes pictures of {net.side}x{net.side} pixels only; export it with free height and width')
    detector = FaceDetector(net, LARGEST)
    picture = fit(read_picture(sample_image()), LARGEST, 1)[0]
    absmax = _largest_values(graph, fit(picture, LARGEST, net.strides[-1])[0])
    findings = lint(graph, target, absmax)
    require_buildable(findings)
    spec = target.runtime.variants[PRECISION]
    variant = half_variant(graph, absmax, {**spec, 'graph': GRAPH})
    expected = detector(picture)
    report = _check(variant.simulation, path, detector.threshold, picture, expected)
    shapes = [[1, 3, *sides] for sides in ([net.strides[-1]] * 2, COMMON, (LARGEST, LARGEST))]
    norm = PictureNorm()
    facts = {'graph': GRAPH, 'input': graph.input, 'flags': list(spec['flags']), 'verdict': '',
             'layer_precisions': variant.layer_precisions, 'shapes': shapes, 'strides': list(net.strides),
             'score': detector.threshold, 'outputs': list(graph.outputs),
             'mean': norm.mean[0], 'std': norm.std, 'sample': SAMPLE, 'accept': ACCEPT,
             'licence': net.sidecar.get('licence', '')}
    sample = {'picture': picture, 'boxes': expected.boxes, 'landmarks': expected.landmarks, 'scores': expected.scores}
    files = {GRAPH: graph.model.SerializeToString(), SAMPLE: npz_bytes(sample), **variant.files}
    return BoardDetector(facts, files, findings, report)


def _largest_values(graph: Graph, picture: np.ndarray) -> dict[str, float]:
    """Largest absolute value of each tensor for a picture uint8 RGB ``(H, W, 3)``."""
    return {name: float(np.abs(value).max()) for name, value in Activations(graph)(PictureNorm()(picture[None]))}


def _check(simulation, path: Path, threshold: float, picture: np.ndarray, expected: Faces) -> dict:
    """How well the 16-bit arithmetic finds the faces that are expected.

    Raises:
        GateError: not well enough.
    """
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / path.name
        file.write_bytes(simulation.SerializeToString())
        found = FaceDetector(OnnxDetector(file, exact=True), LARGEST, threshold)(picture)
    report = compare(*((faces.boxes, faces.landmarks, faces.scores) for faces in (expected, found)))
    if not agrees(report, ACCEPT):
        raise GateError('parity gate: in 16 bits {} finds {found} of {faces} faces on the sample picture, least overlap '
                        '{min_iou:.3f}, landmark error {landmark_error:.3f}'.format(path.name, **report), report)
    return {'precision': PRECISION, 'simulated': True, **report}
