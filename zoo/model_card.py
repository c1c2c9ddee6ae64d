"""Model cards: one YAML a model in ``zoo/cards``, read into frozen dataclasses. Data, not code.

A card says what a model is, how exact it is to its paper, what it eats, and which trained weights there are with their
hash, licence, provenance and measurements.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from plugins.preprocess import PictureNorm, Preprocess
from plugins.registry import suggest
from zoo.datafile import build_dataclass, read_yaml

__all__ = ['WEIGHTS_SUFFIXES', 'CardError', 'ModelCard', 'Weights', 'card', 'has_card', 'list_models', 'preprocess_of',
           'read_card', 'refuse_file', 'weights_of']

WEIGHTS_SUFFIXES = ('.safetensors', '.pt', '.pth', '.params')
CARDS = Path(__file__).parent / 'cards'


class CardError(ValueError):
    """A card does not exist, or a field in it is wrong."""


@dataclass(frozen=True)
class Weights:
    """Trained weights of a model.

    Attributes:
        file: name below ``zoo/weights`` (bundled) or of the cached download.
        sha256: of that file; checked before every use.
        url: where to fetch it when it is not bundled.
        licence, data: terms of use; what it was trained on.
        recipe: recipe and run that made it.
        num_features, network_args: how to build the network (a detector has no embedding).
        metrics: measurements by data set, each with its conditions.
        thresholds: of a recogniser, cosine similarity above which two faces count as one person, by FAR; of a detector,
            ``score``: the lowest score of a face.
        limits: what it is known not to do well.
    """

    file: str
    sha256: str
    licence: str
    data: str
    recipe: str
    num_features: int | None = None
    url: str | None = None
    network_args: Mapping = field(default_factory=dict)
    metrics: Mapping = field(default_factory=dict)
    thresholds: Mapping = field(default_factory=dict)
    limits: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelCard:
    """What a model is.

    Attributes:
        task: ``recognition`` (aligned face to embedding) or ``detection`` (picture to boxes and landmarks).
        fidelity: ``exact`` to the published layer table, ``near`` (see ``deviations``) or ``stand-in`` (the paper gives no
            detail).
        params, macs: of the default build (pure multiply-accumulates); asserted by a test.
        claims: figures printed in the paper; the paper's, not ours.
        deployable: runtimes for which export and parity are tested.
        small: options of a small build of the same layers, on which the test battery runs; empty: the net itself is small.
        weights: trained weights by tag; ``default`` is what ``zoo.load(name)`` gives.
    """

    name: str
    summary: str
    paper: str
    fidelity: str
    params: int
    macs: int
    task: str = 'recognition'
    num_features: int = 512
    input_size: int = 112
    preprocess: Preprocess | PictureNorm = field(default_factory=Preprocess)
    deviations: tuple[str, ...] = ()
    claims: Mapping = field(default_factory=dict)
    deployable: tuple[str, ...] = ('onnx', 'ncnn', 'tensorrt')
    small: Mapping = field(default_factory=dict)
    weights: Mapping[str, Weights] = field(default_factory=dict)


@cache
def card(name: str) -> ModelCard:
    """The card of a model (``fdfacenet``; a weights tag behind a dot is ignored).

    Raises:
        CardError: unknown name (close ones are suggested), or a malformed card.
    """
    refuse_file(name)
    model = name.partition('.')[0]
    if has_card(model):
        return read_card(CARDS / f'{model}.yaml')
    if Path(name).exists():
        raise _no_model(Path(name))
    raise CardError(f'unknown model {model!r}{suggest(model, list_models(), "; `facezoo list` shows all")}')


def has_card(network: str) -> bool:
    """Whether a network, named without a tag, is the zoo's; others may be a user's own."""
    return '/' not in network and (CARDS / f'{network}.yaml').is_file()


def refuse_file(name: str) -> None:
    """Say which files are models, for a name that is a file or looks like one, and that nothing has opened as a model.

    Raises:
        CardError: it has a folder in front, or a suffix that is no tag of a model's weights.
    """
    path = Path(name)
    if path.name != name or (path.suffix and (path.is_file() or not has_card(name.partition('.')[0]))):
        raise _no_model(path)


def _no_model(path: Path) -> CardError:
    what = ('no such file, and no model of the zoo' if not path.exists() else
            'a folder without a .param file' if path.is_dir() else 'not a kind of file that is taken here')
    return CardError(f'{path}: {what}; a model is a name of the zoo (`facezoo list`), trained weights '
                     f'({", ".join(WEIGHTS_SUFFIXES)}) or, where it is only run, an .onnx file, a .param file or its folder')


def list_models(weights: bool = False, task: str | None = None) -> list[str]:
    """Sorted names of all models, or only of those with trained weights, or for one task."""
    names = sorted(path.stem for path in CARDS.glob('*.yaml'))
    if weights or task:
        names = [name for name in names if (card(name).weights or not weights) and task in (None, card(name).task)]
    return names


def preprocess_of(network: str) -> Preprocess | PictureNorm:
    """What a network eats: its card's word, or InsightFace's convention for recognisers without a card (a user's own)."""
    return card(network).preprocess if has_card(network) else Preprocess()


def weights_of(name: str | os.PathLike) -> Weights | None:
    """The card's entry of trained weights by zoo name (``fdfacenet``, ``fdfacenet.lowquality``); None for anything else."""
    model, _, tag = str(name).partition('.')
    return card(model).weights.get(tag or 'default') if has_card(model) else None


def read_card(path: Path) -> ModelCard:
    """Read and check one card file.

    Raises:
        CardError: a field is missing, unknown or of the wrong kind; the message names file and field.
    """
    data = read_yaml(path, CardError)
    task, entries, given = data.get('task', 'recognition'), data.pop('weights', {}), data.pop('preprocess', {})
    for key, value in {'weights': entries, 'preprocess': given}.items():
        if not isinstance(value, dict):
            raise CardError(f'{path}: {key}: {value!r} must be a mapping; leave it out if there is none')
    weights = {tag: build_dataclass(Weights, entry, f'{path}: weights.{tag}', CardError) for tag, entry in entries.items()}
    if task not in ('recognition', 'detection'):
        raise CardError(f'{path}: task: {task!r} is neither recognition nor detection')
    kind = PictureNorm
    if task == 'recognition':
        kind, given = Preprocess, {'input_size': data.get('input_size', 112), **given}
    preprocess = build_dataclass(kind, given, f'{path}: preprocess', CardError)
    made = build_dataclass(ModelCard, {'name': path.stem, 'preprocess': preprocess, 'weights': weights, **data}, str(path),
                           CardError)
    if made.fidelity not in ('exact', 'near', 'stand-in'):
        raise CardError(f'{path}: fidelity: {made.fidelity!r} is none of exact, near, stand-in')
    if made.fidelity != 'exact' and not made.deviations:
        raise CardError(f'{path}: deviations: a card that is not exact must list them')
    return made
