"""The shipped recipes, and `facezoo recipe`."""

from __future__ import annotations

import pytest

from plugins.registry import list_backbones
from recipes.config import list_recipes, load_recipe, read_config
from tests.conftest import ROOT
from zoo.cli import main

INSIGHTFACE = [name for name in list_recipes() if getattr(load_recipe(name), 'num_classes', None)]  # detectors have none
# identities and images, as InsightFace's recipes and data set pages state them
COUNTS = {'MS1MV3': (93431, 5179510), 'MS1MV2': (85742, 5822653), 'Glint360K': (360232, 17091657),
          'WebFace4M': (205990, 4235242), 'WebFace12M': (617970, 12720066), 'CASIA': (10572, 490623)}


def test_there_are_recipes_for_each_data_set():
    found = {(load_recipe(name).num_classes, load_recipe(name).num_image) for name in INSIGHTFACE}
    assert found == set(COUNTS.values())


@pytest.mark.parametrize('name', INSIGHTFACE)
def test_shipped_recipe(name):
    """Short, complete for InsightFace's trainer, known keys (load_recipe), a network of the zoo, a sane schedule."""
    config, raw = load_recipe(name), read_config(name)
    assert 10 <= len((ROOT / 'recipes' / f'{name}.py').read_text().splitlines()) <= 25
    assert {'rec', 'num_classes', 'num_image', 'num_epoch', 'warmup_epoch', 'val_targets'} <= set(raw)
    assert raw['output'] is None and config.network in list_backbones()
    assert config.warmup_epoch < config.num_epoch and list(config.milestones) == sorted(config.milestones)


def test_list_and_show(capsys):
    assert main(['recipe', 'list']) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in list_recipes())
    assert main(['recipe', 'show', 'fdfacenet_ms1mv3', 'lr=0.02']) == 0
    shown = capsys.readouterr().out
    assert 'lr: 0.02' in shown and "only InsightFace's trainer reads: fp16=True" in shown


def test_check(capsys, face_folder):
    words = [f'rec={face_folder}', 'num_classes=6', 'num_image=48', 'batch_size=16', 'val_targets=[]']
    assert main(['recipe', 'check', 'fdfacenet_ms1mv3', *words]) == 0
    assert f'fits {face_folder}' in capsys.readouterr().out
    assert main(['recipe', 'check', 'fdfacenet_ms1mv3', *words[:1], *words[3:]]) == 1
    out = capsys.readouterr().out
    assert 'num_image=5179510 in the recipe, but' in out and 'num_classes=93431' in out and ': wrong: 2\n' in out
    assert main(['recipe', 'check', 'fdfacenet_ms1mv3', *words, 'degrade.factors=[2, 128]']) == 1
    assert 'wrong: degrade.factors=[2, 128]: a face of 112x112 pixels cannot be made 128 times' in capsys.readouterr().out
    assert main(['recipe', 'check', 'fdfacenet_ms1mv3']) == 1
    assert "rec='ms1m-retinaface-t1': there is no such data set" in capsys.readouterr().out


def test_check_opens_what_a_training_would_open(capsys, face_folder, tmp_path):
    """Weights that are there are not yet weights that fit."""
    words = [f'rec={face_folder}', 'batch_size=16', 'val_targets=[]']
    (tmp_path / 'cut.safetensors').write_bytes(b'cut')
    for others, said in (
            (['teachers=["fdfacenet"]', 'init=fdfacenet'], f'fits {face_folder}'),
            (['teachers=["fdfacenet"]', 'init=mobilefacenet'], "wrong: init='mobilefacenet': "),
            ([f'teachers=["{tmp_path / "cut.safetensors"}"]'], 'cut.safetensors: not a whole safetensors file'),
            (['teachers=["retinaface_mnet025"]'], 'wrong: retinaface_mnet025 is a detector'),
            (['teachers=["fdfacenet"]', 'network=retinaface_mnet025'], "unknown backbone 'retinaface_mnet025'")):
        status = main(['recipe', 'check', 'fdfacenet_kd_faces', *words, *others])
        out = capsys.readouterr().out
        assert said in out and status == ('wrong' in out), out
