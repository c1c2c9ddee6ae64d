"""The gates between an artefact and its user: does it compute what the PyTorch model computes, and recognise as well?"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from plugins.data.sources import read_faces, spread
from plugins.preprocess import FaceError
from zoo.evaluate.verification import VerificationResult, load_verification_set, verify
from zoo.export.parity import GateError, check_parity
from zoo.pipeline.sample import sample_crops
from zoo.runtime import Embedder

__all__ = ['GATES', 'Gates', 'Judge']

_PARITY_FACES = 64


@dataclass(frozen=True)
class Gates:
    """What an artefact must reach.

    Attributes:
        min_cosine: to torch, on every face.
        max_accuracy_drop: how much less accurate than torch, as a fraction. Both are measured at torch's thresholds of the ten
            folds: the card's are torch's, too, and an artefact's own may jump where its embeddings hardly move. One decision
            may always be lost: on a small set it is more than this fraction, and means nothing.
    """

    min_cosine: float = 0.99999
    max_accuracy_drop: float = 0.0002


# bf16 has 8 bits of mantissa: between fp16, which must cost nothing, and int8, which may cost 0.2 points
GATES = {
    'fp32': Gates(),
    'fp16': Gates(0.9999, 0.0002),
    'bf16': Gates(0.999, 0.001),
    'int8': Gates(0.9, 0.002),
}
GATES['int8_implicit'] = GATES['int8']


class Judge:
    """Measures artefacts of one model against the model itself, which is measured once.

    Args:
        reference: the PyTorch model.
        gate_set: verification set to measure accuracy on; its faces also serve the parity check. Without it parity is
            checked on the sample faces that the ``insightface`` package ships, and no accuracy is claimed.
    """

    def __init__(self, reference: Embedder, gate_set: str | os.PathLike | None) -> None:
        self.reference, self.gate_set = reference, gate_set
        self.data = load_verification_set(gate_set) if gate_set else None

    @cached_property
    def faces(self) -> np.ndarray:
        """Faces of the parity check, uint8 RGB ``(N, S, S, 3)``; those of the sample picture with their mirror images."""
        size = self.reference.preprocess.input_size
        if self.data:
            return read_faces(self.data.faces, spread(self.data.faces, _PARITY_FACES), size)
        crops = sample_crops(size)
        return np.concatenate([crops, crops[:, :, ::-1]])

    @cached_property
    def baseline(self) -> VerificationResult:
        """The reference's own result on the gate set."""
        return verify(self.reference, self.data, progress=True)

    def judge(self, candidate: Embedder, gates: Gates) -> dict:
        """Parity and accuracy of an artefact, as they go into its sidecar.

        Raises:
            GateError: it failed a gate; what was measured is in its ``report``.
        """
        parity = check_parity(self.reference, candidate, self.faces)
        report: dict = {'parity': parity.to_dict(), 'gates': asdict(gates)}
        result = None
        if self.data:
            baseline = self.baseline  # has read every face, so that what fails from here on is the candidate
            try:
                result = verify(candidate, self.data, progress=True, reference=baseline)
            except FaceError as error:
                raise GateError(f'accuracy gate: {error}') from None
            report['verification'] = {'set': self.data.name, 'flip': True, 'torch': baseline.to_dict(),
                                      'artefact': result.to_dict()}
        try:
            parity.require(gates.min_cosine)
            if result:
                self._require_accuracy(result, gates)
        except GateError as error:
            raise GateError(str(error), report) from None
        return report

    def _require_accuracy(self, found: VerificationResult, gates: Gates) -> None:
        allowed = max(gates.max_accuracy_drop, 1 / found.pairs)
        if self.baseline.accuracy - found.at_reference > allowed + 1e-12:
            raise GateError(f'accuracy gate: {100 * found.at_reference:.2f} % on {self.data.name} at the thresholds of torch, '
                            f'which reaches {100 * self.baseline.accuracy:.2f} %; at most '
                            f'{100 * allowed:.2f} points may be lost')
