"""What is being exported, with the measurements that several artefacts of one model share."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from zoo.export.calibrate import CalibrationError, calibration_faces
from zoo.export.gates import GATES, Gates, Judge
from zoo.export.graph import Graph
from zoo.export.onnx import to_onnx
from zoo.export.parity import GateError
from zoo.export.search import Int8Plan, Quantiser
from zoo.export.target import Target
from zoo.model_card import weights_of
from zoo.runtime import Embedder
from zoo.weights import weights_digest

__all__ = ['Job', 'origin_facts']

CALIBRATION_FACES = 512
_SATURATION = 0.05  # of cosine; rounding alone does not set a file further apart from its simulation


def origin_facts(model: nn.Module) -> dict:
    """``origin`` (``fdfacenet.lowquality``), ``licence`` and ``thresholds`` of a model's weights; empty when no card knows
    them."""
    origin = getattr(model, 'origin', None) or ''
    weights = weights_of(origin)
    if weights is None:
        return {'origin': '', 'licence': '', 'thresholds': {}}
    return {'origin': origin, 'licence': weights.licence, 'thresholds': dict(weights.thresholds)}


@dataclass(frozen=True)
class Job:
    """One model on its way to a device.

    Attributes:
        model: with ``preprocess`` and ``origin``, as :func:`zoo.load` returns it.
        judge: measures an artefact against the model.
        target: the device, or None for any.
        calib: faces to calibrate on; needed for 8 bits.
        gates: instead of the precision's own.
    """

    model: nn.Module
    name: str
    judge: Judge
    target: Target | None = None
    calib: str | os.PathLike | None = None
    gates: Gates | None = None

    @cached_property
    def graph(self) -> Graph:
        """The float32 ONNX graph that all other forms are made from."""
        return Graph(to_onnx(self.model))

    @cached_property
    def quantiser(self) -> Quantiser:
        """Calibrated on ``calib``.

        Raises:
            CalibrationError: no faces were named, or accuracy could not be gated on others.
        """
        if not self.calib:
            raise CalibrationError('8 bits need faces to calibrate on: --calib FACES (a folder, zip, .rec or .bin of aligned '
                                   'faces; not the set that accuracy is measured on)')
        if self.judge.data is None:
            raise CalibrationError('8 bits cost some models their accuracy: name a verification set with --gate-set SET to '
                                   'measure it on')
        if os.path.realpath(self.calib) == os.path.realpath(self.judge.gate_set):
            raise CalibrationError(f'--calib {self.calib} is the --gate-set, too: accuracy on the faces that set the '
                                   'ranges says nothing about others; name other faces to calibrate on')
        faces = calibration_faces(self.calib, CALIBRATION_FACES, self.model.preprocess.input_size)
        return Quantiser(self.graph, faces, self.model.preprocess)

    def on(self, device: Target | None) -> Job:
        """The same model for another device, with what its cached properties hold already."""
        other = copy.copy(self)
        vars(other)['target'] = device
        return other

    @cached_property
    def facts(self) -> dict:
        """What every sidecar says of the model."""
        height, width = self.model.input_size
        return {'model': self.name, 'num_features': self.model.num_features, 'preprocess': self.model.preprocess.to_dict(),
                'input': f'{height}x{width}', 'weights': weights_digest(self.model), **origin_facts(self.model)}

    def pass_gates(self, candidate: Embedder, precision: str, plan: Int8Plan | None = None) -> dict:
        """Parity and accuracy of an artefact.

        Raises:
            GateError: it failed; for 8 bits the message names the layer that lost most, or the processor.
        """
        try:
            return self.judge.judge(candidate, self.gates or GATES[precision])
        except GateError as error:
            if plan is None:
                raise
            raise GateError(f'{error}. {_advice(plan, error.report)}',
                            {**error.report, 'quantisation': plan.to_dict()}) from None


def _advice(plan: Int8Plan, report: dict) -> str:
    """What to do about 8 bits that failed a gate."""
    found = report.get('parity', {}).get('min_cosine', plan.worst)
    if plan.scheme == 'onnxruntime' and found < plan.worst - _SATURATION:
        return (f'Simulated, the file reaches a cosine of {plan.worst:.4f} on faces of --calib. On x86 processors without '
                '8-bit dot products (VNNI) onnxruntime saturates: export and run the file on one that has them, or export to '
                'NCNN. On other processors calibrate on faces more like those of the gate set')
    return (f'The layer that lost most is {plan.culprit}. Fine-tune with quantise=true (facezoo train), train a ReLU variant, '
            'or export fp16')
