"""Trainings of several processes, and processes that are told to end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
import torch

import zoo
from recipes.trainer.engine import Trainer
from tests.conftest import PATIENCE, ROOT, training_log, wait_for


def test_signal_to_all_processes_of_a_training_saves_it(recipe, tmp_path):
    """torchrun and schedulers signal the loader's workers, too."""
    recipe()
    command = [sys.executable, '-m', 'zoo.cli', 'train', str(tmp_path / 'tiny.py'), 'num_epoch=2000', 'num_workers=2',
               'verbose=1000000', 'frequent=1']
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    log = tmp_path / 'run' / 'log.jsonl'
    wait_for(lambda: log.exists() and log.stat().st_size)  # a step was made: it listens to signals
    os.killpg(process.pid, signal.SIGTERM)
    assert 'resume=true' in process.communicate(timeout=PATIENCE)[1] and process.returncode == 130
    assert (tmp_path / 'run' / 'checkpoint.pt').exists()


@pytest.mark.parametrize('method', [m for m in ('fork', 'forkserver') if m in multiprocessing.get_all_start_methods()])
def test_an_error_in_a_worker_ends_the_process(face_folder, method):
    """The traceback holds the loader and so its workers, which outlive signals: Python used to wait for them for ever.

    The parent of a worker is the trainer, or the server that forked it, Python 3.14's way.
    """
    script = f"""
import multiprocessing
multiprocessing.set_start_method({method!r})
from plugins.data.datasets import FaceDataset, FaceSampler, face_loader
from plugins.data.sources import open_faces
loader = face_loader(FaceDataset(open_faces({str(face_folder)!r})), FaceSampler(1000, 100, 1, 0), 2)  # there are 48
batches = iter(loader)
next(batches)
"""
    done = subprocess.run([sys.executable, '-c', script], timeout=PATIENCE, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.rstrip().endswith('IndexError: list index out of range'), done.stderr


PLAIN = '''
from torch import nn
from plugins.backbones._base import Backbone
from plugins.registry import register_backbone

class Plain(Backbone):
    """No BatchNorm, which sees another batch in every process."""
    def __init__(self, num_features=512, input_size=112, fp16=False, dropout=0.0):
        super().__init__(num_features, input_size, fp16)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.PReLU(8), nn.Conv2d(8, 16, 3, 4), nn.PReLU(16))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(16 * 7 * 7, num_features))

@register_backbone
def plain_without_norm(**options):
    return Plain(**options)
'''


def torchrun(tmp_path, port: int, *words: str) -> None:
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', f'--master_port={port}', '-m', 'zoo.cli',
               'train', str(tmp_path / 'tiny.py'), *words]
    done = subprocess.run(command, timeout=PATIENCE, capture_output=True, text=True,
                          env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_like_one(recipe, tmp_path, monkeypatch):
    (tmp_path / 'plain.py').write_text(PLAIN)
    monkeypatch.setenv('FACEZOO_PLUGINS', str(tmp_path / 'plain.py'))
    shared = {'network': 'plain_without_norm', 'network_args': {}, 'num_epoch': 2, 'optimizer': 'sgd', 'val_targets': []}
    one = recipe(**shared, batch_size=24, output=str(tmp_path / 'one'))
    trainer = Trainer(one)
    before = {key: value.clone() for key, value in trainer.raw.backbone.state_dict().items()}
    trainer.fit()
    two = recipe(**shared, output=str(tmp_path / 'two'))
    with open(tmp_path / 'tiny.py', 'a') as file:  # as clocks differ: the first process would save after every step, alone
        file.write('import os\nconfig["save_minutes"] = 100 * int(os.environ["RANK"])\n')
    torchrun(tmp_path, 29611, *(f'{key}={value}' for key, value in shared.items()), f'output={two.output}', 'batch_size=12')
    alone, shared_out = (zoo.load(f'{run.output}/last.safetensors', network='plain_without_norm').state_dict()
                         for run in (one, two))
    moved = max((alone[key] - before[key]).abs().max().item() for key in alone)
    difference = max((alone[key] - shared_out[key]).abs().max().item() for key in alone)
    assert moved > 1e-3 and difference < 1e-3 * moved
    losses = [[line['margin'] for line in training_log(run)] for run in (one, two)]  # of all images, not of the first process's
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-4, atol=1e-4)


def test_two_processes_learn_attention_alone(recipe, tmp_path):
    """The layers behind the last attention map get no gradient, which data-parallel training has to be told."""
    shared = {'network': 'cbam_resnext100', 'network_args': {'units': [1, 1, 1, 1], 'width': 0.25}, 'val_targets': []}
    Trainer(recipe(**shared, num_epoch=1, output=str(tmp_path / 'teacher'))).fit()
    words = [f'{key}={value}' for key, value in shared.items()]
    torchrun(tmp_path, 29612, *words, f'output={tmp_path / "pupil"}', 'margin_weight=0', f'teachers=["{tmp_path / "teacher"}"]',
             'distill={"attention": 1.0}', 'num_epoch=2', 'seed=4294967295')  # the highest
    assert (tmp_path / 'pupil' / 'last.safetensors').is_file()
