"""Does an artefact compute what the PyTorch model computes? Measured on real faces, at several batch sizes."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from plugins.preprocess import l2_normalise
from zoo.runtime.embedder import Embedder

__all__ = ['GateError', 'Parity', 'check_parity']

BATCHES = (1, 2, 32)


class GateError(RuntimeError):
    """An artefact failed a gate and is not handed out.

    Attributes:
        report: what was measured of it all the same (see :meth:`zoo.export.gates.Judge.judge`); empty when nothing could be.
    """

    def __init__(self, message: str, report: dict | None = None) -> None:
        super().__init__(message)
        self.report = report or {}


@dataclass(frozen=True)
class Parity:
    """Differences between an artefact and its reference.

    Attributes:
        min_cosine: over all faces and batch sizes; max_abs: largest difference of an element.
        spread: median cosine between two *different* faces in the reference. A broken net gives all faces one embedding,
            and then every parity figure looks perfect; such a net is refused.
    """

    min_cosine: float
    max_abs: float
    spread: float
    faces: int
    batches: tuple[int, ...]

    def to_dict(self) -> dict:
        return asdict(self)

    def require(self, min_cosine: float) -> None:
        """Pass, or not.

        Raises:
            GateError: the cosine is too low.
        """
        if not self.min_cosine >= min_cosine:
            raise GateError(f'parity gate: minimum cosine {self.min_cosine:.7f} over {self.faces} faces at batch sizes '
                            f'{list(self.batches)} is below {min_cosine} (largest difference {self.max_abs:.2e})')


def check_parity(reference: Embedder, artefact: Embedder, faces: np.ndarray) -> Parity:
    """Compare two embedders on uint8 RGB faces ``(N, S, S, 3)`` with N at least 2.

    Raises:
        GateError: the reference gives different faces nearly the same embedding, so that parity would prove nothing; or the
            artefact does not run at a batch size.
    """
    expected = reference(faces)
    unit, pixels = l2_normalise(expected), faces.reshape(len(faces), -1)[:, ::97]
    distinct = (pixels[:, None] != pixels[None]).any(2)  # duplicates among the faces say nothing about the net
    spread = float(np.median((unit @ unit.T)[distinct])) if distinct.any() else 1.0
    if spread > 0.9:
        raise GateError(f'{reference.name}: the median cosine between different faces is {spread:.3f}: the net hardly looks at '
                        'its input (untrained, or broken), so parity would prove nothing')
    cosines, largest = [], 0.0
    for size in BATCHES:
        rows = np.resize(np.arange(len(faces)), -(-len(faces) // size) * size).reshape(-1, size)
        for row in rows:
            try:
                found = artefact(faces[row])
            except RuntimeError as error:
                raise GateError(f'parity gate: the artefact does not run at batch size {size}; a size that Python computes is '
                                f'frozen on export, so flatten with torch.flatten(x, 1) ({error})') from None
            largest = float(np.maximum(largest, np.abs(found - expected[row]).max()))  # NumPy's: Python's loses NaN
            cosines.append((l2_normalise(found) * unit[row]).sum(1))
    return Parity(float(np.concatenate(cosines).min()), largest, spread, len(faces), BATCHES)
