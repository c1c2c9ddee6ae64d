"""What the documentation takes from the cards: a page a model for the site, and the table of the README.

  mkdocs build --strict        the site, with the pages made here
  python docs/hooks.py         write the README's table again
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from plugins.files import write_atomic  # noqa: E402
from zoo.card_page import model_page, models_table, weights_table  # noqa: E402
from zoo.model_card import card, list_models  # noqa: E402


def fill(text: str) -> str:
    """``text`` with the table between ``<!-- weights -->`` and ``<!-- /weights -->`` made anew."""
    return re.sub('(<!-- weights -->\n).*?(<!-- /weights -->)', lambda m: f'{m[1]}\n{weights_table()}\n{m[2]}', text,
                  flags=re.DOTALL)


def on_files(files, config):
    """MkDocs: add the models' pages, their index and the README as the first page."""
    from mkdocs.structure.files import File
    pages = {f'models/{name}.md': model_page(card(name)) for name in list_models()}
    pages['models/index.md'] = f'# Models\n\n{models_table()}'
    pages['index.md'] = re.sub(r'\]\(docs/', '](', (ROOT / 'README.md').read_text())
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


if __name__ == '__main__':
    readme = ROOT / 'README.md'
    write_atomic(readme, fill(readme.read_text()))
