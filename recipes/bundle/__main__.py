"""Put the weights of a finished run into the zoo: measure them, name them by their hash, write the card's entry.

  python -m recipes.bundle runs/fdfacenet --weights best --licence TEXT --data TEXT --holdout faces/holdout --set lfw=lfw.bin

Thresholds come from all impostor pairs of the held-out identities (``facezoo data pack --holdout``), never from a test set.
The card is rewritten with what was measured; nothing in it is typed by hand.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
from pathlib import Path

import numpy as np
import yaml

from plugins.data.sources import open_faces
from plugins.preprocess import FaceError
from recipes.bundle import install_weights
from zoo.commands.options import named_set
from zoo.evaluate.embed import embed_faces
from zoo.evaluate.verification import threshold_at, verify
from zoo.hub import weights_path
from zoo.model_card import card
from zoo.pipeline.threshold import FARS
from zoo.runtime.embedder import Embedder
from zoo.runtime.torch import open_torch
from zoo.weights import describe

__all__ = ['impostor_thresholds', 'main']


def impostor_thresholds(embedder: Embedder, folder: str) -> tuple[dict[str, float], dict[str, float], str]:
    """Cosine thresholds by FAR over all impostor pairs of a labelled set, the TAR at each, and a sentence on the set.

    Raises:
        FaceError: faces of unknown identity, of which nobody knows what pairs they make, or too few pairs for the lowest FAR.
    """
    source = open_faces(folder)
    labels = np.array([source.read(i)[1] for i in range(len(source))])
    if unknown := int((labels < 0).sum()):
        raise FaceError(f'{folder}: {unknown} of {len(labels)} faces are of unknown identity; --holdout takes a folder for '
                        'each identity, or the holdout of `facezoo data pack --holdout`')
    first, second = np.triu_indices(len(labels), 1)
    same, least = labels[first] == labels[second], math.ceil(1 / float(FARS[-1]))
    if (~same).sum() < least or not same.any():  # the highest score of a few impostors says nothing of a rarer one
        raise FaceError(f'{folder}: {(~same).sum():,} impostor and {same.sum():,} genuine pairs; thresholds down to FAR '
                        f'{FARS[-1]} need at least {least:,} and one: hold out more identities (`facezoo data pack --holdout`)')
    embeddings, _ = embed_faces(embedder, source, label='held-out faces', progress=True)
    scores = (embeddings @ embeddings.T)[first, second]
    # rounded up: rounded down it would accept more than the rate says
    thresholds = {far: math.ceil(1e4 * threshold_at(scores[~same], float(far))) / 1e4 for far in FARS}
    tar = {far: round(float((scores[same] > thresholds[far]).mean()), 4) for far in FARS}
    return thresholds, tar, (f'{(~same).sum():,} impostor and {same.sum():,} genuine pairs of {len(set(labels.tolist()))} '
                             'identities that were not trained on, flip sum')


def main(argv: list[str] | None = None) -> None:
    """Measure a run and write its card entry.

    Raises:
        CardError: the network has no card.
        FaceError: see :func:`impostor_thresholds`.
    """
    parser = argparse.ArgumentParser('python -m recipes.bundle', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run', type=Path, help="a training's output folder")
    parser.add_argument('--weights', default='last', choices=('last', 'best'),
                        help='those of the end, or those that were best on the validation set')
    parser.add_argument('--tag', default='default', help="'default', or what they are called after the network's name: "
                                                         'lowquality for fdfacenet.lowquality')
    parser.add_argument('--licence', required=True, help='of the weights, and what it forbids')
    parser.add_argument('--data', required=True, help='what the weights were trained on')
    parser.add_argument('--holdout', required=True, help='labelled faces of identities that were not trained on')
    parser.add_argument('--set', action='append', default=[], type=named_set, metavar='NAME=SET',
                        help='a verification set to report; may be given several times')
    parser.add_argument('--limit', action='append', default=[], help='a known limit, in words; may be given several times')
    args = parser.parse_args(argv)
    source = args.run / f'{args.weights}.safetensors'
    facts, recipe = describe(source), yaml.safe_load((args.run / 'recipe.yaml').read_text())
    log = map(json.loads, (args.run / 'log.jsonl').read_text().splitlines())
    epoch = max((line.get('epoch', 0) for line in log), default=0)  # of a training that was stopped, not the recipe's last one
    card(facts['network'])  # said before the measurement: its entry is written into the card of the network
    embedder = open_torch(source)
    thresholds, tar, conditions = impostor_thresholds(embedder, args.holdout)
    metrics = {'holdout': {f'tar@{far}': tar[far] for far in FARS} | {'conditions': conditions}}
    for name, path in args.set:
        metrics[name] = {key: round(value, 5) if isinstance(value, float) else value
                         for key, value in verify(embedder, path, progress=True).to_dict().items()} | {'flip': True}
    entry = {
        'licence': args.licence, 'data': args.data,
        'recipe': f'{args.run.name}: {recipe["num_epoch"]} epochs (logged to {epoch:.4g}), seed {recipe["seed"]}, '
                  f'{args.weights} weights; bundled {datetime.date.today()} with Python {platform.python_version()}'
                  f'{_begun(facts["network"], recipe["init"])}',
        'num_features': facts['num_features'], 'network_args': facts['network_args'], 'metrics': metrics,
        'thresholds': thresholds, 'limits': args.limit}
    entry = install_weights(source, facts['network'], entry, args.tag)
    print(yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, width=128))


def _begun(network: str, init: str | None) -> str:
    """What the training went on from, with its own history when the card has it."""
    if not init:
        return ''
    path = weights_path(init)
    known = [f' ({entry.recipe})' for entry in card(network).weights.values() if entry.file == path.name]
    return f'; begun from {path.name}{"".join(known)}'


if __name__ == '__main__':
    main()
