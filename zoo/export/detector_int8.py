"""A detector in 8 bits: ranges measured on whole pictures, some layers in floating point, the same faces found.

In floating point stay the heads (all layers behind the last activation function: they put out offsets of a tenth of a pixel)
and the first layers, which have few channels and whose errors all others inherit. How many of these is tried, fewest first: the
first plan that passes the gate is taken, so it is the one with most arithmetic in 8 bits. Fewer than eight are not tried: there
8 bits gain no time (on x86), and faces are found less exactly. The gate compares detections with those of the floating-point
detector on the pictures that were not calibrated on, and on the sample picture. As these pictures also choose among the plans,
their figures are slightly favourable; ``results/detector_int8.json`` has those of other pictures, by plan.

Ranges are by least squares (``mse``); ``entropy`` puts landmarks clearly worse, the other methods differ little (same file).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence

import numpy as np

from plugins.data.sources import TreeFaces, spread
from plugins.preprocess import PictureNorm, decode_image
from zoo.export.agreement import DetectionJudge, require_agreement
from zoo.export.calibrate import MIN_IMAGES, Calibration, CalibrationError, fit_ranges, measure_histograms
from zoo.export.graph import Graph
from zoo.export.parity import GateError
from zoo.export.quantize import SCHEMES, macs_in_int8
from zoo.jetson.decode import fit
from zoo.pipeline.pictures import read_picture
from zoo.pipeline.sample import sample_image
from zoo.runtime.detector import FaceDetector

__all__ = ['MIN_PICTURES', 'DetectorQuantiser', 'heads']

FIRST = (8, 12, 16)  # layers at the beginning that stay in floating point, plan by plan
METHOD = 'mse'
MOST, EVERY = 192, 3  # pictures taken; of which every third is held back to judge by
MIN_PICTURES = MIN_IMAGES * EVERY // (EVERY - 1)
MIN_FACES = 8
_ACTIVATIONS = frozenset({'Relu', 'LeakyRelu', 'PRelu', 'Clip', 'HardSigmoid'})

Build = Callable[[Calibration, Collection[str]], FaceDetector]


class DetectorQuantiser:
    """Measures ranges once, then writes the detector by plan after plan until one passes.

    Args:
        graph: that takes pictures of any size.
        scheme: key of :data:`zoo.export.quantize.SCHEMES`.
        reference: in floating point.
        pictures: folder or zip, or folder in a zip, of ordinary pictures, at least 48; 192 spread over it are used.

    Attributes:
        judge: compares on the pictures that were held back.

    Raises:
        CalibrationError: too few pictures, or hardly a face in them.
        FaceError: no pictures, or a damaged one.
    """

    def __init__(self, graph: Graph, scheme: str, reference: FaceDetector, pictures: str | os.PathLike) -> None:
        taken = _read(pictures)
        held = [picture for index, picture in enumerate(taken) if index % EVERY == EVERY - 1]
        self.judge = DetectionJudge(reference, [*held, read_picture(sample_image())])
        faces = sum(self.judge.faces[:-1])
        if faces < MIN_FACES:
            raise CalibrationError(f'{pictures}: {faces} faces in the {len(held)} pictures that are held back to judge by; at '
                                   f'least {MIN_FACES} are needed: name pictures of people like those that the detector '
                                   'will see')
        self._squares = _as_squares([p for index, p in enumerate(taken) if index % EVERY != EVERY - 1], reference)
        self._histograms = measure_histograms(graph, self._squares, PictureNorm(), batch_size=1)
        self._graph, self._scheme = graph, SCHEMES[scheme]
        self._sized = graph.at((1, 3, reference.size, reference.size))

    def calibration(self, method: str = METHOD) -> Calibration:
        """The ranges that a method of :data:`zoo.export.calibrate.METHODS` makes of what was measured."""
        return fit_ranges(self._histograms, self._squares, PictureNorm(), method)

    def keep(self, first: int) -> list[str]:
        """Names of the layers in floating point when ``first`` at the beginning are, in order."""
        kept = self._scheme.kept(self._graph, {*heads(self._graph), *(layer.name for layer in self._graph.layers[:first])})
        return [layer.name for layer in self._graph.layers if layer.name in kept]

    def plan(self, build: Build) -> dict:
        """Write the detector by the plan that has most arithmetic in 8 bits and passes the gate.

        Args:
            build: ``build(calibration, keep)`` writes it with the layers ``keep`` in floating point, and opens it; the last
                call is that of the plan taken.

        Returns:
            For the sidecar: ``quantisation`` (how) and ``agreement`` (see :class:`zoo.export.agreement.DetectionJudge`).

        Raises:
            GateError: no plan passes.
        """
        calibration, tried, error = self.calibration(), [], None
        for first in FIRST:
            keep = self.keep(first)
            report = self.judge(build(calibration, keep))
            tried.append({'first_layers': first, 'int8_macs': macs_in_int8(self._sized, keep), 'agreement': report})
            try:
                require_agreement(report)
            except GateError as failure:
                error = failure
                continue
            return {'agreement': report, 'quantisation': {
                'method': METHOD, 'keep': keep, 'first_layers': first, 'int8_macs': tried[-1]['int8_macs'],
                'pictures': calibration.images, 'pictures_sha256': calibration.images_sha256,
                'calibration_sha256': calibration.sha256, 'tried': tried}}
        raise GateError(f'{error}, even with the heads and the first {FIRST[-1]} layers in floating point. Calibrate on more '
                        'pictures, like those that the detector will see, or leave out --precision int8', {'tried': tried})


def heads(graph: Graph) -> list[str]:
    """Names of the layers behind the last activation function: between them and an output there is none."""
    linear = set(graph.outputs)
    for node in reversed(graph.nodes):
        if linear & set(node.output) and node.op_type not in _ACTIVATIONS:
            linear |= set(node.input)
    return [layer.name for layer in graph.layers if layer.output in linear]


def _read(root: str | os.PathLike) -> list[np.ndarray]:
    """Pictures spread evenly over a source, uint8 RGB, upright."""
    tree = TreeFaces(root)
    if len(tree) < MIN_PICTURES:
        raise CalibrationError(f'{root}: {len(tree)} pictures to calibrate on; at least {MIN_PICTURES} are needed '
                               f'({MIN_IMAGES} for the ranges, every third to judge by), {MOST} are better')
    return [decode_image(tree.read(row)[0], tree.name(row), upright=True) for row in spread(tree, MOST).tolist()]


def _as_squares(pictures: Sequence[np.ndarray], reference: FaceDetector) -> np.ndarray:
    """Pictures scaled as the detector scales them and filled up with black, uint8 ``(N, S, S, 3)``."""
    multiple = reference.net.strides[-1]
    longest = min(reference.size, max(max(picture.shape[:2]) for picture in pictures))
    side = -(-longest // multiple) * multiple
    return np.stack([fit(picture, reference.size, side)[0] for picture in pictures])
