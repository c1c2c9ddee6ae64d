"""Decision thresholds: from the card of the model at a stated false accept rate, never from a constant in code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zoo.model_card import has_card, weights_of
from zoo.runtime.embedder import Embedder

__all__ = ['FARS', 'threshold_of']

FARS = ('1e-3', '1e-4', '1e-5')  # at which a card's thresholds are measured when weights are put into the zoo


def threshold_of(embedder: Embedder, far: str = '1e-3') -> float:
    """Cosine similarity above which two faces count as one person: of ``1 / far`` pairs of strangers one passes.

    A search in a gallery of ``N`` persons compares ``N`` times, so that a stranger is taken for somebody with a probability of
    up to ``N far``.

    Args:
        embedder: of a zoo model, or of an exported file, which carries the thresholds of its weights.

    Raises:
        ValueError: nothing is known of the model, or no threshold at ``far``; the message says what there is.
    """
    sidecar = getattr(embedder, 'sidecar', None)  # of an exported file, empty when there is none beside it
    if sidecar and sidecar.get('thresholds') is not None:
        return _pick(sidecar['thresholds'], far, f'{embedder.name}: its weights have')
    if sidecar == {}:  # whatever its name, or that of its folder
        raise ValueError(f'{embedder.name}: no threshold is known, because the .json of this model is not beside it; copy '
                         'that file, too, or give --threshold')
    name = (sidecar or {}).get('model') or Path(embedder.name).name
    model = name.partition('.')[0]
    if not has_card(model):
        raise ValueError(f'{embedder.name} is not a model of the zoo: no threshold is known for it; measure one with '
                         '`facezoo eval` (threshold@1e-3) and give it with --threshold')
    weights = weights_of(name)
    return _pick(weights.thresholds if weights else {}, far, f'the card of {model} has')


def _pick(thresholds: Mapping, far: str, who: str) -> float:
    if far not in thresholds:
        raise ValueError(f'{who} no threshold at FAR {far} ({", ".join(thresholds) or "none at all"}); measure one with '
                         '`facezoo eval` (threshold@1e-3) and give it with --threshold')
    return float(thresholds[far])
