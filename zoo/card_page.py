"""Cards as Markdown: the pages of the documentation and the tables of the README are made from them, never typed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from zoo.model_card import ModelCard, Weights, card, list_models
from zoo.tables import markdown_table

__all__ = ['model_page', 'models_table', 'weights_table']


def weights_table() -> str:
    """All trained recognisers with what was measured of them, and below it what they were trained on."""
    rows, trained_on = [], defaultdict(list)
    for model in map(card, list_models(weights=True, task='recognition')):
        for tag, weights in model.weights.items():
            name = f'`{model.name if tag == "default" else f"{model.name}.{tag}"}`'
            trained_on[weights.data].append(name)
            lfw, threshold = weights.metrics.get('lfw', {}), weights.thresholds.get('1e-3')
            rows.append([name, f'{model.params / 1e6:.2f} M', f'{model.macs / 1e6:.0f} M',
                         f'{model.input_size}x{model.input_size}', f'{100 * lfw["accuracy"]:.2f} %' if lfw else '',
                         f'{100 * lfw["tar@1e-3"]:.2f} %' if lfw else '',
                         '' if threshold is None else f'{threshold:.4f}'])
    header = ['weights', 'params', 'MACs', 'input', 'LFW', 'LFW TAR@FAR 1e-3', 'threshold at FAR 1e-3']
    return (markdown_table(header, rows) + '\nTrained on:\n\n'
            + ''.join(f'- {data}: {", ".join(names)}\n' for data, names in trained_on.items()))


def models_table() -> str:
    """All models, each linked to its page beside this one."""
    return markdown_table(['model', 'params', 'MACs', 'fidelity', 'weights', 'what it is'], [
        [f'[{m.name}]({m.name}.md)', f'{m.params / 1e6:.2f} M', f'{m.macs / 1e6:.0f} M', m.fidelity, ', '.join(m.weights),
         m.summary] for m in map(card, list_models())])


def model_page(model: ModelCard) -> str:
    """The page of one model: source, deviations, complexity, the paper's claims as the paper's, weights and measurements."""
    facts = [['paper', model.paper], ['fidelity', model.fidelity],
             ['parameters', f'{model.params:,}'], ['MACs (pure)', f'{model.macs:,}'],
             ['input', f'{model.input_size}x{model.input_size}, RGB'], ['deployable', ', '.join(model.deployable)]]
    parts = [f'# {model.name}\n\n{model.summary[0].upper()}{model.summary[1:]}.\n', markdown_table(['', ''], facts)]
    if model.deviations:
        parts.append('## Deviations from the paper\n\n' + _list(model.deviations))
    if model.claims:
        parts.append("## The paper's figures\n\nAs printed in the paper, for its data and devices; not measured here.\n\n"
                     + markdown_table(['figure', 'printed'], _flat(model.claims)))
    parts += [_weights(model.name, tag, weights) for tag, weights in model.weights.items()]
    if not model.weights:
        parts.append('## Weights\n\nNone are bundled: train the model, or give `zoo.load` a file of yours (`weights=PATH`).\n')
    return '\n'.join(parts)


def _weights(name: str, tag: str, weights: Weights) -> str:
    call = f"zoo.load('{name if tag == 'default' else f'{name}.{tag}'}')"
    rows = [['file', weights.file], ['sha256', f'`{weights.sha256}`'], ['licence', weights.licence], ['data', weights.data],
            ['recipe', weights.recipe]]
    rows += [['lowest score of a face' if key == 'score' else f'cosine threshold at FAR {key}', value]
             for key, value in weights.thresholds.items()]
    parts = [f'## Weights `{call}`\n', markdown_table(['', ''], rows)]
    parts += [f'Measured on `{data}`:\n\n' + markdown_table(['measure', 'value'], _flat(measured))
              for data, measured in weights.metrics.items() if isinstance(measured, Mapping)]
    if weights.limits:
        parts.append('Known limits:\n\n' + _list(weights.limits))
    return '\n'.join(parts)


def _flat(mapping: Mapping, prefix: str = '') -> list[list[object]]:
    rows: list[list[object]] = []
    for key, value in mapping.items():
        rows += _flat(value, f'{prefix}{key}: ') if isinstance(value, Mapping) else [[f'{prefix}{key}', value]]
    return rows


def _list(items: Sequence[str]) -> str:
    return ''.join(f'- {item}\n' for item in items)
