"""Whether two sets of embeddings may be compared: same network, weights, preprocessing and mirroring.

The contract is what the embedder *does*, not what its file is called: the embeddings of three fixed patterns. The same
weights on PyTorch, onnxruntime or NCNN agree on them to 1e-4; other weights, another colour order or normalisation do not. In 8
bits the same weights agree to 0.93 on patterns (0.998 on faces), which other weights may reach, too: there the digest of the
weights that an export was made from decides, and the patterns only show that nothing else is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from plugins.preprocess import l2_normalise
from zoo.runtime.embedder import Embedder, embed_batches

__all__ = ['Contract', 'ContractError', 'contract_of', 'patterns']

AGREE = 0.99  # cosine on every pattern; rounding to float16 keeps 0.9999, another training of the same recipe does not reach it
SAME_WEIGHTS_AGREE = 0.85  # what is left of it in 8 bits, with a margin; another colour order does not reach it


class ContractError(ValueError):
    """Embeddings of two different models or preprocessings were about to be compared."""


@dataclass(frozen=True)
class Contract:
    """What made the embeddings.

    Attributes:
        model: name for messages.
        preprocess: as :meth:`plugins.preprocess.Preprocess.to_dict`.
        flip: embeddings are sums over the face and its mirror image.
        probe: float32 ``(3, D)``, unit length: embeddings of :func:`patterns`.
        weights: digest of the weights in floating point, see :func:`zoo.weights.weights_digest`; empty when not known.
    """

    model: str
    preprocess: dict
    flip: bool
    probe: np.ndarray
    weights: str = ''

    def require(self, other: Contract, what: str) -> None:
        """Refuse ``other`` unless its embeddings lie in the same space.

        Raises:
            ContractError: the message names both and what differs.
        """
        reason = self._difference(other)
        if reason:
            raise ContractError(f'{what} was enrolled with {other.model} and cannot be compared with {self.model} as used '
                                f'here: {reason}. Use the model and options it was enrolled with, or enrol again')

    def to_dict(self) -> dict:
        """Plain values for JSON, all but ``probe``."""
        return {key: value for key, value in vars(self).items() if key != 'probe'}

    @classmethod
    def from_dict(cls, facts: Mapping, probe: np.ndarray) -> Contract:
        """From what :meth:`to_dict` gave; there may be more in it.

        Raises:
            KeyError: something of a contract is missing.
        """
        weights = facts.get('weights', '')  # not in galleries of the first versions
        return cls(facts['model'], facts['preprocess'], facts['flip'], probe, weights)

    def _difference(self, other: Contract) -> str | None:
        for key in sorted(self.preprocess):
            if self.preprocess[key] != other.preprocess.get(key):
                return f'preprocess.{key} is {other.preprocess.get(key)!r} there and {self.preprocess[key]!r} here'
        if self.flip != other.flip:
            return f'flip, the sum with the mirrored face, is {other.flip} there and {self.flip} here (--no-flip)'
        if self.probe.shape != other.probe.shape:
            return f'{other.probe.shape[1]} numbers there and {self.probe.shape[1]} here'
        cosine = float((self.probe * other.probe).sum(1).min())
        enough = SAME_WEIGHTS_AGREE if self.weights and self.weights == other.weights else AGREE
        return None if cosine >= enough else f'on a test pattern they agree to a cosine of {cosine:.3f} only'


def contract_of(embedder: Embedder, flip: bool) -> Contract:
    """The contract that ``embedder`` keeps."""
    sums, _ = next(embed_batches(embedder, [patterns(embedder.preprocess.input_size)], flip))
    probe = l2_normalise(sums).astype(np.float32)
    return Contract(embedder.name, embedder.preprocess.to_dict(), flip, probe, _weights_of(embedder))


def _weights_of(embedder: Embedder) -> str:
    if not hasattr(embedder, 'sidecar') and hasattr(embedder, 'model'):  # PyTorch
        from zoo.weights import weights_digest
        return weights_digest(embedder.model)
    return getattr(embedder, 'sidecar', {}).get('weights', '')


def patterns(size: int) -> np.ndarray:
    """Three fixed smooth coloured patterns, uint8 ``(3, size, size, 3)``, without left-right symmetry."""
    y, x = np.mgrid[0:1:size * 1j, 0:1:size * 1j]
    waves = [[np.sin(2 * np.pi * ((1 + p + c) * x + (2 + c - p) * y * y) + c) for c in range(3)] for p in range(3)]
    return (127.5 + 100 * np.array(waves)).astype(np.uint8).transpose(0, 2, 3, 1).copy()
