"""The documentation: tables are those of the cards, the site builds without a warning."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.card_page import model_page
from zoo.model_card import card, list_models

ROOT = Path(__file__).parents[1]


def test_readme_tables_are_those_of_the_cards():
    spec = importlib.util.spec_from_file_location('hooks', ROOT / 'docs' / 'hooks.py')
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    text = (ROOT / 'README.md').read_text()
    assert hooks.fill(text) == text, 'run python docs/hooks.py'
    assert '| `fdfacenet` |' in text


@pytest.mark.parametrize('name', list_models())
def test_page_says_what_the_card_says(name):
    page, model = model_page(card(name)), card(name)
    assert f'{model.params:,}' in page and model.paper in page.replace('\\|', '|')
    assert all(text in page for text in model.deviations)
    assert all(weights.sha256 in page and weights.licence in page for weights in model.weights.values())
    assert ('not measured here' in page) == bool(model.claims)


def test_site_builds_without_a_warning(tmp_path):
    pytest.importorskip('mkdocs')
    run = subprocess.run([sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path / 'site')], cwd=ROOT,
                         capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert 'fdfacenet' in (tmp_path / 'site' / 'index.html').read_text()
    assert (tmp_path / 'site' / 'models' / 'fdfacenet' / 'index.html').is_file()
