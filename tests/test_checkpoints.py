"""A training that goes wrong stops with its last good checkpoint whole, and goes on only as what it was."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import zoo
from recipes.trainer.checkpoint import CheckpointError
from recipes.trainer.engine import Trainer
from recipes.trainer.log import TrainLog
from recipes.trainer.run import Diverged, Interrupted, LossWatch
from tests.conftest import training_log
from zoo.evaluate.verification import verify
from zoo.export.onnx import export_onnx
from zoo.weights import save_weights


def test_resume_with_another_recipe_is_refused(recipe):
    Trainer(recipe(num_epoch=1)).fit()
    with pytest.raises(CheckpointError, match=r'lr: 0\.02 -> 0\.5'):
        Trainer(recipe(num_epoch=1, resume=True, lr=0.5))
    with pytest.raises(CheckpointError, match=r'images a step: 12 -> 6 \(batch_size'):
        Trainer(recipe(num_epoch=1, resume=True, batch_size=6))
    with pytest.raises(CheckpointError, match='resume=true'):
        Trainer(recipe(num_epoch=1))


def test_resume_from_a_damaged_checkpoint_is_refused(recipe):
    config = recipe(num_epoch=1)
    Trainer(config).fit()
    path = f'{config.output}/checkpoint.pt'
    with open(path, 'r+b') as file:
        file.truncate(os.path.getsize(path) // 2)
    with pytest.raises(CheckpointError, match='cannot be read'):
        Trainer(recipe(num_epoch=1, resume=True))
    with pytest.raises(CheckpointError, match='no checkpoint'):
        Trainer(recipe(num_epoch=1, resume=True, output=config.output + 'x'))


def test_nan_stops_and_keeps_the_last_good_checkpoint(recipe):
    config = recipe(num_epoch=2)
    trainer = Trainer(config)
    trainer.raw.head.weight.data.fill_(float('nan'))
    with pytest.raises(Diverged, match=r'loss is nan at step 0.*person'):
        trainer.fit()
    assert not os.path.exists(f'{config.output}/checkpoint.pt')


def test_infinite_gradient_leaves_the_weights_alone(recipe):
    trainer = Trainer(recipe(num_epoch=1))
    trainer.raw.head.weight.register_hook(lambda gradient: gradient * float('inf'))
    before = trainer.raw.head.weight.clone()
    with pytest.raises(Diverged, match=r'the norm of the gradient is (nan|inf) at step 0 \(margin .*person') as raised:
        trainer.fit()
    assert 'no checkpoint had been written' in str(raised.value)
    assert torch.equal(trainer.raw.head.weight, before)


def stop_after(trainer: Trainer, steps: int) -> None:
    """Train so far and be interrupted."""
    step = trainer._step

    def interrupted(batch, number, per_epoch):
        if number == steps - 1:
            os.kill(os.getpid(), 15)
        return step(batch, number, per_epoch)

    trainer._step = interrupted
    with pytest.raises(Interrupted):
        trainer.fit()


def test_weights_that_are_no_numbers_are_not_saved(recipe, monkeypatch):
    config = recipe(num_epoch=2)
    trainer, path = Trainer(config), Path(config.output, 'checkpoint.pt')
    trainer._save()
    good = path.read_bytes()
    variance = next(value for name, value in trainer.raw.backbone.named_buffers() if name.endswith('running_var'))
    monkeypatch.setattr(trainer, '_verify', lambda step: variance.fill_(torch.inf) is None or {})
    with pytest.raises(Diverged, match=r'student\.backbone\..*running_var is no longer finite .*the checkpoint of step 0 in'):
        trainer.fit()
    assert path.read_bytes() == good


def test_a_lower_learning_rate_is_the_way_on(recipe, caplog):
    config = recipe()
    stop_after(Trainer(config), 3)
    trainer = Trainer(recipe(resume=True, lr=0.001, clip=1.0))
    assert 'goes on with lr 0.001 instead of 0.02' in caplog.text and 'clip 1 instead of 5' in caplog.text
    trainer.fit()
    assert max(line['lr'] for line in training_log(config) if line.get('step') == 4 and 'lr' in line) <= 0.001


def test_another_machine_goes_on_in_its_own_precision(recipe, caplog, monkeypatch):
    monkeypatch.setattr('recipes.trainer.run.computes_bf16', lambda device: True)
    trainer = Trainer(recipe(precision='auto'))
    assert trainer.config.precision == 'bf16'
    stop_after(trainer, 2)
    monkeypatch.setattr('recipes.trainer.run.computes_bf16', lambda device: False)
    trainer = Trainer(recipe(precision='auto', resume=True))
    assert trainer.config.precision == '32'
    trainer.fit()
    assert 'goes on with precision 32 instead of bf16' in caplog.text


def test_other_data_is_noticed_and_another_place_is_not(recipe, face_folder, tmp_path):
    shutil.copytree(face_folder, tmp_path / 'moved')
    stop_after(Trainer(recipe()), 3)
    Trainer(recipe(resume=True, rec=str(tmp_path / 'moved')))
    changed = tmp_path / 'moved' / 'person2' / '3.jpg'
    changed.write_bytes((tmp_path / 'moved' / 'person1' / '3.jpg').read_bytes())
    with pytest.raises(CheckpointError, match=r'recipe \(digest of the faces: \w+ -> \w+\)'):
        Trainer(recipe(resume=True, rec=str(tmp_path / 'moved')))
    changed.unlink()
    with pytest.raises(CheckpointError, match='images: 48 -> 47'):
        Trainer(recipe(resume=True, rec=str(tmp_path / 'moved')))


def test_another_teacher_in_the_same_file_is_noticed(recipe, tmp_path):
    files = [tmp_path / 'teacher.onnx', tmp_path / 'begin.safetensors']
    options = {'margin_weight': 0, 'distill': {'embedding': 1.0}, 'teachers': [str(files[0])], 'init': str(files[1])}

    def write(seed: int) -> None:
        torch.manual_seed(seed)
        net = zoo.create('fdfacenet', width=0.25, num_features=32).eval()
        export_onnx(net, files[0])
        save_weights(files[1], net, 'fdfacenet', {'width': 0.25})

    write(1)
    stop_after(Trainer(recipe(**options)), 3)
    Trainer(recipe(**options, resume=True))
    write(2)
    with pytest.raises(CheckpointError, match=r'digest of \S+teacher\.onnx: .*digest of \S+begin\.safetensors: \w+ -> \w+\)'):
        Trainer(recipe(**options, resume=True))


def test_what_a_checkpoint_does_not_know_is_said(recipe, caplog):
    config = recipe()
    stop_after(Trainer(config), 3)
    path = Path(config.output, 'checkpoint.pt')
    state = torch.load(path, weights_only=True)
    state['data'] = {'images': 48, 'identities': 6, 'fingerprint': 'of another kind'}
    torch.save(state, path)
    Trainer(recipe(resume=True))
    assert 'saved by an earlier version of facezoo, without digest of the faces' in caplog.text


def test_the_best_weights_are_kept(recipe, monkeypatch):
    """Of accuracies 0.9, 0.8 and, after an interruption, 0.85 the first; then 0.95 is better."""
    best, scores, kept = Path(recipe().output, 'best.safetensors'), iter((0.9, 0.8, 0.85, 0.95)), []

    class Scored:
        def __init__(self, embedder, data):
            kept.append(best.read_bytes() if best.exists() else None)

        def to_dict(self):
            return {'accuracy': next(scores), 'tar@1e-3': 0.0}

    monkeypatch.setattr('recipes.trainer.engine.verify', Scored)
    stop_after(Trainer(recipe(num_epoch=4)), 10)  # of 16 steps
    Trainer(recipe(num_epoch=4, resume=True)).fit()
    assert kept[0] is None and kept[1] and kept[1] == kept[2] == kept[3] != best.read_bytes()


def test_the_best_on_one_set_is_not_the_best_on_another(recipe, face_bin, tmp_path, monkeypatch):
    """A training that goes on with a harder set keeps what is best there."""
    stop_after(Trainer(recipe(verbose=1)), 3)
    harder = shutil.copy(face_bin, tmp_path / 'harder.bin')
    assert Trainer(recipe(resume=True)).best > 0
    trainer = Trainer(recipe(resume=True, val_targets=[str(harder)]))
    best = trainer.output / 'best.safetensors'
    monkeypatch.setattr('recipes.trainer.engine.verify', lambda embedder, data: replace(verify(embedder, data), accuracy=0.1))
    before = best.read_bytes()
    trainer.fit()
    assert trainer.best == 0.1 and best.read_bytes() != before


def test_a_file_of_something_else_is_no_checkpoint(recipe):
    config = recipe()
    Path(config.output).mkdir()
    torch.save({'weights': 1}, Path(config.output, 'checkpoint.pt'))
    with pytest.raises(CheckpointError, match=r'not a checkpoint of `facezoo train`; .* init=FILE'):
        Trainer(recipe(resume=True))


def test_a_loss_that_explodes():
    watch = LossWatch(2.0)
    assert [watch(10.0) for _ in range(LossWatch.STEPS)] == [None] * LossWatch.STEPS and watch.first == 10
    assert [watch(1.0) for _ in range(100)] == [None] * 100
    rising = [watch(30.0) for _ in range(LossWatch.STEPS)]
    first = next(number for number, words in enumerate(rising, 1) if words)
    assert first == 33  # (50 - n) 1 + n 30 > 50 * 20
    assert rising[first - 1] == 'loss explodes: 20.14 on average over 50 steps, 10 at the beginning'
    resumed = LossWatch(2.0, first=1.0)
    assert any(resumed(3.0) for _ in range(LossWatch.STEPS))
    assert not any(LossWatch(0.0, first=1.0)(3.0) for _ in range(2 * LossWatch.STEPS))
    assert LossWatch(0.0)(float('nan')) == 'loss is nan'


def test_an_exploding_training_stops(recipe, monkeypatch):
    monkeypatch.setattr(LossWatch, 'STEPS', 4)
    with pytest.raises(Diverged, match=r'loss explodes: .* \(margin .*, centre .*; batch of .*person'):
        Trainer(recipe(num_epoch=20, centre_weight=1000.0, lr=0.05, clip=1e9, verbose=1000)).fit()


def test_nothing_is_saved_while_the_loss_may_be_exploding(recipe, monkeypatch):
    """A save is due after every step; it takes three losses of 3 after those of 1 until their mean is above 2."""
    monkeypatch.setattr(LossWatch, 'STEPS', 4)
    scripted = iter([*[1.0] * 6, *[3.0] * 3])
    trainer = Trainer(recipe(num_epoch=5, save_minutes=0, verbose=1000))
    check = trainer._check_loss
    monkeypatch.setattr(trainer, '_check_loss', lambda loss, *rest: check(next(scripted), *rest))
    with pytest.raises(Diverged, match=r'loss explodes: 2\.5 .* at step 8 .*; the checkpoint of step 6 in .* is good'):
        trainer.fit()
    assert torch.load(trainer.output / 'checkpoint.pt', weights_only=True)['images'] == 6 * 12


@pytest.mark.parametrize(('acc', 'moves'), [(3, 2), (1000, 1)])
def test_the_last_gradients_count_too(recipe, acc, moves, monkeypatch):
    """Four steps: three and one, or four of a thousand."""
    trainer = Trainer(recipe(num_epoch=1, gradient_acc=acc))
    made, step = [], trainer.optimizer.step
    monkeypatch.setattr(trainer.optimizer, 'step', lambda *args, **kwargs: made.append(1) or step(*args, **kwargs))
    trainer.fit()
    assert len(made) == moves


def test_what_comes_again_is_not_logged_twice(tmp_path):
    path = tmp_path / 'log.jsonl'
    path.write_text(''.join(json.dumps({'step': step, 'margin': 1.0}) + '\n' for step in range(1, 6)) + '{"step": 6, "marg')
    log = TrainLog(tmp_path, 100, done=3, batch=10)
    log.advance()
    assert log.rate() > 0 == log.rate()  # of the steps since it was asked last
    log.write(4, margin=2.0)
    log.close()
    assert [(line['step'], line['margin']) for line in map(json.loads, path.read_text().splitlines())] == [
        (1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)]
    TrainLog(tmp_path, 100, done=0, batch=10).close()
    assert not path.read_text()
