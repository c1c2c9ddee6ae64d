"""How often strangers of one sex and origin, or of one age, are accepted at the cards' thresholds.

    python benchmarks/impostors.py --faces faces_extra.zip/unlabelled --holdout faces/holdout --teacher edgeface_xs.onnx

Writes results/impostors.json, and into each card the figures of its weights (not when --out names another file).

Needs: faces_extra.zip/unlabelled (aligned UTKFace faces, whose names say age, sex and origin), faces/holdout (labelled faces
that were not trained on), edgeface_xs.onnx (a public recogniser)

The files are called AGE_SEX_ORIGIN_DATE; ages and origins are the data set's, partly estimated. Some persons occur more than
once: of two faces whose cosine is above 0.45 by the teacher, the second is left out (the scores have a valley there; of 3.6
million pairs of a man and a woman none lies between it and 0.6). From these faces the zoo's weights learned the teacher's
embeddings, but no identities. The teacher's own thresholds are found on the held-out faces, as those of the cards were.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from command_line import command_line

from plugins.data.sources import TreeFaces
from plugins.files import write_atomic
from recipes.bundle import add_metrics
from recipes.bundle.__main__ import impostor_thresholds
from zoo.evaluate.embed import embed_faces
from zoo.evaluate.impostors import evaluate_impostors
from zoo.model_card import card, list_models, weights_of
from zoo.pipeline.threshold import FARS
from zoo.runtime import open_embedder
from zoo.runtime.embedder import Embedder

RESULT = Path(__file__).parents[1] / 'results' / 'impostors.json'
SEXES, ORIGINS = ('men', 'women'), ('White', 'Black', 'Asian', 'Indian', 'other')  # as the data set numbers and names them
AGES = ((18, 29), (30, 44), (45, 64), (65, 120))
ONE_PERSON = 0.45


def groups_of(source: TreeFaces) -> dict[str, np.ndarray]:
    """Rows of each group, by its name; a file without age, sex and origin is in none."""
    said = [re.fullmatch(r'(\d{1,3})_(\d)_(\d)_.*', name.rpartition('/')[2]) for name in source.names]
    age, sex, origin = np.array([[*map(int, name.groups())] if name else [-1] * 3 for name in said]).T
    return {**{f'{origin_name}, {sex_name}': np.flatnonzero((sex == s) & (origin == o))
               for o, origin_name in enumerate(ORIGINS) for s, sex_name in enumerate(SEXES)},
            **{f'aged {low} to {high}': np.flatnonzero((age >= low) & (age <= high)) for low, high in AGES}}


def repeated(embeddings: np.ndarray) -> np.ndarray:
    """Bool ``(N,)``: an earlier face is of the same person."""
    return (np.tril(embeddings @ embeddings.T, -1) > ONE_PERSON).any(1)


def measure(embeddings: np.ndarray, rows: Mapping[str, np.ndarray], thresholds: Mapping[str, float]) -> dict:
    """FAR of every group at the thresholds, and the threshold at which it is 1e-3."""
    found = {name: evaluate_impostors(embeddings[chosen], thresholds, FARS[:1]).to_dict() for name, chosen in rows.items()}
    return {'thresholds': dict(thresholds),
            'groups': {name: {key: float(f'{value:.3g}') if key.startswith('far@') else round(value, 4)
                              for key, value in result.items()} for name, result in found.items()}}


def _embed(embedder: Embedder, source: TreeFaces) -> np.ndarray:
    return embed_faces(embedder, source, label=embedder.name, progress=True)[0]


def card_metrics(facts: dict, model: str) -> dict:
    """What the card of a model says of strangers: their FAR by group at its threshold for 1e-3."""
    return {**{name: group['far@1e-3'] for name, group in facts['models'][model]['groups'].items()},
            'conditions': f'FAR at the threshold for 1e-3 among {facts["set"]}, flip sum', 'command': facts['command']}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--faces', required=True, help="UTKFace's aligned faces: folder or zip")
    parser.add_argument('--holdout', required=True, help='labelled faces of identities that were not trained on')
    parser.add_argument('--teacher', required=True, help='ONNX file of a recogniser that tells persons apart')
    parser.add_argument('--out', type=Path, default=RESULT)
    args = parser.parse_args()
    source, teacher = TreeFaces(args.faces), open_embedder(args.teacher)
    taught = _embed(teacher, source)
    kept = ~repeated(taught)
    rows = {'all': np.flatnonzero(kept), **{name: rows[kept[rows]] for name, rows in groups_of(source).items()}}
    weights = [model if tag == 'default' else f'{model}.{tag}' for model in list_models(weights=True, task='recognition')
               for tag in card(model).weights]
    models = {name: measure(_embed(open_embedder(name), source), rows, weights_of(name).thresholds) for name in weights}
    models[Path(args.teacher).stem] = measure(taught, rows, impostor_thresholds(teacher, args.holdout)[0])
    facts = {'command': command_line(__doc__), 'date': datetime.date.today().isoformat(), 'flip': True,
             'set': f"{kept.sum():,} UTKFace faces of different persons, whose teachers' embeddings were trained on",
             'left_out': int((~kept).sum()), 'models': models}
    write_atomic(args.out, json.dumps(facts, indent=1) + '\n')
    if args.out == RESULT:
        for name in weights:
            add_metrics(name, {'impostors': card_metrics(facts, name)})


if __name__ == '__main__':
    main()
