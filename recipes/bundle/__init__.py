"""Put trained weights into the zoo: ``python -m recipes.bundle`` for recognisers, ``python -m recipes.bundle.detector``;
``python -m recipes.bundle.score`` measures a bundled detector again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import yaml

from plugins.files import atomic_path, sha256_file, write_atomic
from zoo.hub import BUNDLED
from zoo.model_card import CARDS

__all__ = ['add_metrics', 'edit_entry', 'install_weights']


def install_weights(source: Path, network: str, entry: dict, tag: str = 'default') -> dict:
    """Copy a weights file under the name of its hash into the zoo and write the card's entry of ``tag``.

    The file that the tag had before goes when the card is written.

    Returns:
        The entry, with ``file`` and ``sha256`` in front.
    """
    digest = sha256_file(source)
    label = network if tag == 'default' else f'{network}-{tag}'
    entry = {'file': f'{label}-{digest[:8]}.safetensors', 'sha256': digest, **entry}
    with atomic_path(BUNDLED / entry['file']) as temporary:
        shutil.copyfile(source, temporary)
    old = edit_entry(network, tag, lambda _: entry)
    if old and old['file'] != entry['file']:
        (BUNDLED / old['file']).unlink(missing_ok=True)
    return entry


def edit_entry(network: str, tag: str, edit: Callable[[dict], dict]) -> dict:
    """Write what ``edit`` makes of a card's entry of trained weights; returns what it was before (empty: there was none)."""
    path = CARDS / f'{network}.yaml'
    card = yaml.safe_load(path.read_text(encoding='utf-8'))
    old = card.setdefault('weights', {}).get(tag, {})
    card['weights'][tag] = edit(old)
    write_atomic(path, yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=128))
    return old


def add_metrics(name: str, measured: dict) -> None:
    """Put figures into the card of the weights ``name`` (``fdfacenet.lowquality``), beside what else was measured of them."""
    network, _, tag = name.partition('.')
    edit_entry(network, tag or 'default', lambda entry: entry | {'metrics': entry['metrics'] | measured})
