"""Decision thresholds: from the card of the model at a stated false accept rate, never from a constant in code."""

from __future__ import annotations

from pathlib import Path

from zoo.model_card import CARDS, weights_of
from zoo.runtime.embedder import Embedder

__all__ = ['FARS', 'threshold_of']

FARS = ('1e-3', '1e-4', '1e-5')


def threshold_of(embedder: Embedder, far: str = '1e-3') -> float:
    """Cosine similarity above which two faces count as one person: of ``1 / far`` pairs of strangers one passes.

    A search in a gallery of ``N`` persons compares ``N`` times, so that a stranger is taken for somebody with a probability of
    up to ``N far``.

    Args:
        embedder: of a zoo model or of a file exported from one.

    Raises:
        ValueError: the model has no card, or the card no threshold at ``far``; the message says what there is.
    """
    name = getattr(embedder, 'sidecar', {}).get('model') or Path(embedder.name).name
    model = name.partition('.')[0]
    if not (CARDS / f'{model}.yaml').exists():
        raise ValueError(f'{embedder.name} is not a model of the zoo: no threshold is known for it; measure one with '
                         '`facezoo eval` (threshold@1e-3) and give it with --threshold')
    weights = weights_of(name)
    thresholds = dict(weights.thresholds) if weights else {}
    if far not in thresholds:
        raise ValueError(f'the card of {model} has no threshold at FAR {far} '
                         f'({", ".join(thresholds) or "it has none"}); give one with --threshold')
    return float(thresholds[far])
