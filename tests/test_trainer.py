"""The trainer: it learns, resumes exactly and refuses wrong recipes before anything is written."""

from __future__ import annotations

import copy
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch._inductor.config
from torch import nn

import zoo
from plugins.data.augment import Augment
from plugins.data.datasets import FaceDataset, FaceSampler
from plugins.data.sources import open_faces
from plugins.files import sha256_file
from plugins.layers import ConvBNAct, DepthwiseSeparable, SpatialAttention
from plugins.overrides import apply_overrides, parse_overrides
from plugins.preprocess import FaceError
from recipes.config import RecipeError, list_recipes, load_recipe
from recipes.trainer.cpu import avoid_strided_depthwise, keep_layout
from recipes.trainer.engine import Trainer
from recipes.trainer.run import Interrupted, moving_average
from recipes.trainer.schedule import learning_rate
from tests.conftest import training_log, wait_for
from zoo.evaluate.verification import verify
from zoo.weights import weights_digest


def losses(config) -> list[float]:
    return [line['margin'] for line in training_log(config) if 'margin' in line]


def test_learns_and_writes_everything(recipe):
    config = recipe(num_epoch=12, ema=0.5)
    results = Trainer(config).fit()
    found = losses(config)
    assert sum(found[-4:]) < 0.5 * sum(found[:4])
    assert results['six']['accuracy'] > 0.8
    for name in ('best.safetensors', 'last.safetensors', 'checkpoint.pt', 'recipe.yaml', 'log.jsonl'):
        assert os.path.getsize(f'{config.output}/{name}')
    model = zoo.load(f'{config.output}/last.safetensors')  # says itself what it is
    assert model.num_features == 32 and not model.training
    assert 'num_epoch: 12' in Path(config.output, 'recipe.yaml').read_text()


@pytest.mark.parametrize('options', [
    {'ema': 0.9, 'gradient_acc': 2},
    {'network': 'cbam_resnext100', 'network_args': {'units': (1, 1, 1, 1), 'width': 0.25, 'dropout': 0.4}, 'num_epoch': 3},
], ids=['average and accumulation', 'dropout'])
def test_resume_equals_no_interruption(options, recipe, tmp_path, monkeypatch):
    whole = recipe(output=str(tmp_path / 'whole'), **options)
    Trainer(whole).fit()
    halves = recipe(output=str(tmp_path / 'halves'), **options)
    trainer = Trainer(halves)
    step = trainer._step

    def stop_in_the_middle(batch, number, per_epoch):
        if number == 4:  # of the second epoch; with gradients accumulated half
            os.kill(os.getpid(), signal.SIGTERM)
        return step(batch, number, per_epoch)

    monkeypatch.setattr(trainer, '_step', stop_in_the_middle)
    with pytest.raises(Interrupted, match='resume=true'):
        trainer.fit()
    Trainer(recipe(output=str(tmp_path / 'halves'), resume=True, **options)).fit()
    assert losses(whole) == losses(halves)
    assert sha256_file(tmp_path / 'whole/last.safetensors') == sha256_file(tmp_path / 'halves/last.safetensors')


def test_best_weights_are_those_that_were_measured(recipe, monkeypatch):
    config, measured, accuracies = recipe(num_epoch=3), [], iter((0.6, 0.9, 0.7))

    def scripted(embedder, data):
        measured.append(weights_digest(embedder.model))
        result = verify(embedder, data)
        return replace(result, accuracy=next(accuracies))

    monkeypatch.setattr('recipes.trainer.engine.verify', scripted)
    trainer = Trainer(config)
    assert trainer.fit()['six']['accuracy'] == 0.7 and trainer.best == 0.9 and len(set(measured)) == 3
    best, last = (weights_digest(zoo.load(f'{config.output}/{name}.safetensors')) for name in ('best', 'last'))
    assert [best, last] == measured[1:]


def test_nothing_is_best_without_a_measurement(recipe):
    config = recipe(num_epoch=2, val_targets=[])
    Trainer(config).fit()
    assert os.path.exists(f'{config.output}/last.safetensors') and not os.path.exists(f'{config.output}/best.safetensors')


def test_the_average_forgets_its_first_weights_quickly():
    """It begins with the first weights; the decay at update n is (1 + n) / (10 + n), up to that of the recipe."""
    net = nn.BatchNorm1d(1)
    average = moving_average(net, 0.2)
    expected = 1.0
    for update, weight in enumerate((1.0, 2.0, 4.0, 8.0)):
        net.weight.data.fill_(weight)
        net.num_batches_tracked += 1
        average.update_parameters(net)
        decay = (0.0, 2 / 11, 0.2, 0.2)[update]
        expected = decay * expected + (1 - decay) * weight
        assert average.module.weight.item() == pytest.approx(expected)
    assert average.module.num_batches_tracked == 4 and moving_average(net, 0.0) is None


def test_margins_go_from_one_to_the_other(recipe, monkeypatch):
    trainer, seen = Trainer(recipe(num_epoch=2, margin_end=(1.0, 0.6, 0.4), val_targets=[])), []  # from (1, 0.2, 0)
    step = trainer._step
    monkeypatch.setattr(trainer, '_step', lambda *args: (step(*args), seen.append(trainer.raw.head.margins))[0])
    trainer.fit()
    assert len(seen) == 8 and seen[0] == (1.0, 0.2, 0.0) and seen[4] == pytest.approx((1.0, 0.4, 0.2))


def test_unstrided_depthwise_is_the_same_convolution():
    net, x = zoo.create('mobilefacenet96_eca').train(), torch.randn(8, 3, 96, 96)  # BatchNorm of the batch keeps faces apart
    before = net(x)
    assert before.std(0).min() > 0.1
    avoid_strided_depthwise(net)
    copied = copy.deepcopy(net)  # as the moving average does
    patched = [m for m in copied.modules() if 'forward' in vars(m)]
    assert len(patched) == 3 and all(m.forward.conv is m for m in patched)
    torch.testing.assert_close(net(x), before, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(copied(x), before, rtol=1e-3, atol=1e-3)


def test_attention_has_a_gradient_when_compiled_in_bf16():
    """That of ``amax`` is NaN: values are computed again, rounded otherwise, and none is the maximum."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), SpatialAttention())
    net.train().to(memory_format=torch.channels_last)
    with torch.autocast('cpu', torch.bfloat16):
        found = torch.compile(net)(torch.randn(8, 3, 16, 16))
    found.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in net.parameters())


@pytest.mark.skipif(not shutil.which('g++'), reason='torch.compile needs a C++ compiler')
@torch._inductor.config.patch(force_layout_optimization=False)
def test_compiled_backward_copies_no_activations():
    """oneDNN copies what comes to a convolution in another layout than channels-last."""
    keep_layout()
    net = nn.Sequential(ConvBNAct(3, 16), DepthwiseSeparable(16, 16, stride=2)).to(memory_format=torch.channels_last)
    loss, x = torch.compile(lambda x: net(x).square().sum()), torch.randn(4, 3, 24, 24).to(memory_format=torch.channels_last)
    loss(x).backward()  # which compiles
    again = loss(x)
    with torch.profiler.profile(record_shapes=True) as profile:
        again.backward()
    shapes = [event.input_shapes[0] for event in profile.events() if event.name == 'aten::copy_']
    assert 'aten::convolution_backward' in {event.name for event in profile.events()}
    assert not [shape for shape in shapes if shape[:1] == [len(x)]]


def test_bf16_trains(recipe):
    config = recipe(precision='bf16', num_epoch=6)
    Trainer(config).fit()
    assert losses(config)[-1] < losses(config)[0]


def test_every_shipped_recipe_loads():
    assert 'fdfacenet_kd_faces' in list_recipes()
    for name in list_recipes():
        assert load_recipe(name).network in zoo.list_models()


@pytest.mark.parametrize(('overrides', 'message'), [
    ({'learning_rate': 1}, "unknown key 'learning_rate'"),
    ({'batchsize': 8}, "did you mean 'batch_size'"),
    ({'lr': 'fast'}, "lr='fast': must be float"),
    ({'batch_size': 0}, 'batch_size=0: must be positive'),
    ({'optimizer': 'lion'}, 'must be one of sgd, adamw'),
    ({'schedule': 'step'}, 'milestones'),
    ({'augment': {'flipp': 1}}, "augment.flipp: unknown; did you mean 'flip'"),
    ({'margin_weight': 0}, 'nothing to learn from'),
    ({'clip': 0}, 'clip=0: must be positive'),
    ({'seed': -1}, 'seed=-1: must not be negative'),
    ({'label_hard': 3}, 'label_hard=3'),
    ({'margin_list': [1, 0.5]}, 'three numbers'),
    ({'margin_list': [1, 'a', 0]}, r"margin_list=\[1, 'a', 0\]: must be a list of float"),
    ({'val_targets': [1]}, r'val_targets=\[1\]: must be a list of str'),
    ({'network_args': {'num_features': 32}}, r'network_args\.num_features=32: set embedding_size'),
    ({'network_args': {'input_size': 96}}, r'network_args\.input_size=96: leave it out'),
    ({'degrade': {'factors': (float('inf'),)}}, r'degrade\.factors=\(inf,\): must be whole'),
    ({'degrade': {'factors': 2}}, 'degrade=.*of the wrong kind'),
    ({'augment': {'flip': 'yes'}}, 'augment=.*of the wrong kind'),
    ({'teachers': ['x'], 'distill': {'embedding': 'x'}}, "distill.embedding='x': must be a number"),
])
def test_wrong_recipe_is_refused(recipe, overrides, message):
    with pytest.raises(RecipeError, match=message):
        recipe(**overrides)


@pytest.mark.parametrize(('overrides', 'message'), [
    ({'warmup_epoch': 3}, 'warmup_epoch=3 is not below num_epoch=3'),
    ({'schedule': 'step', 'milestones': [5]}, r'milestones=\[5\] must rise and lie within num_epoch=3'),
    ({'head': 'softmax', 'margin_end': [1, 0.3, 0]}, r"margin_end=\[1, 0\.3, 0\]: head='softmax' has no margin"),
])
def test_what_would_not_be_heeded_is_refused(recipe, overrides, message):
    with pytest.raises(RecipeError, match=message):
        Trainer(recipe(**overrides))


def test_wrong_data_is_refused(recipe, tmp_path, face_folder):
    with pytest.raises(RecipeError, match=r'num_classes=7 in the recipe, but .* holds 6'):
        Trainer(recipe(num_classes=7))
    with pytest.raises(RecipeError, match='val_targets'):
        Trainer(recipe(val_targets=['lfw']))
    with pytest.raises(FileNotFoundError, match='nowhere'):
        Trainer(recipe(rec=str(tmp_path / 'nowhere')))
    for options in ({}, {'margin_weight': 0, 'centre_weight': 0.1, 'teachers': ['fdfacenet'], 'distill': {'embedding': 1.0}}):
        with pytest.raises(FaceError, match='at least 2'):
            Trainer(recipe(rec=str(face_folder / 'person0'), **options))
    with pytest.raises(RecipeError, match=r"network='retinaface_mnet025' detects faces.*task='detection'"):
        Trainer(recipe(network='retinaface_mnet025', network_args={}))
    config = recipe(degrade={'factors': [2, 128]})
    with pytest.raises(FaceError, match=r'degrade.factors=.*112x112 pixels cannot be made 128 times smaller'):
        Trainer(config)
    assert not Path(config.output).exists()
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FaceError, match='no images'):
        Trainer(recipe(rec=str(tmp_path / 'empty')))


@pytest.mark.parametrize('key', ['margin_list', 'margin_end'])
def test_margins_that_adaface_has_no_use_for_are_refused(recipe, key):
    Trainer(recipe(head='adaface', margin_end=(1.0, 0.3, 0.0)))
    with pytest.raises(RecipeError, match=rf'{key}: AdaFace has one margin m'):
        Trainer(recipe(**{'head': 'adaface', key: (1.0, 0.4, 0.1)}))


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_cuda_where_there_is_none(recipe):
    with pytest.raises(RecipeError, match="use device='cpu'"):
        Trainer(recipe(device='cuda'))


def test_image_that_does_not_decode_is_named(recipe, face_folder, tmp_path):
    broken = tmp_path / 'broken'
    shutil.copytree(face_folder, broken)
    (broken / 'person2' / '3.jpg').write_bytes(b'\xff\xd8\xff garbage')
    with pytest.raises(FaceError, match=rf'^{re.escape(str(broken))}/person2/3\.jpg: .*$'):  # one line, without a traceback
        Trainer(recipe(rec=str(broken), num_workers=1)).fit()


def test_overrides():
    assert parse_overrides(['lr=0.5', 'resume=true', 'rec=a/b', 'val_targets=["x"]', 'augment.flip=0', 'augment.blur=.1']) == {
        'lr': 0.5, 'resume': True, 'rec': 'a/b', 'val_targets': ['x'], 'augment.flip': 0, 'augment.blur': 0.1}
    with pytest.raises(ValueError, match='KEY=VALUE'):
        parse_overrides(['lr'])
    config = {'augment': {'flip': 0.5, 'blur': 0.2}, 'lr': 0.1}
    assert apply_overrides(config, {'augment.flip': 0, 'degrade.p': 1})['augment'] == {'flip': 0, 'blur': 0.2}
    assert apply_overrides(config, {'augment': {}}) == {'augment': {}, 'lr': 0.1} and config['augment']
    with pytest.raises(RecipeError, match=r'fdfacenet_kd_faces: lr\.x=1: lr is 0\.002, which has no entries'):
        load_recipe('fdfacenet_kd_faces', {'lr.x': 1})


def test_schedules(recipe):
    poly = recipe(lr=1.0, num_epoch=11, warmup_epoch=1)
    assert [learning_rate(poly, e) for e in (0, 0.5, 1, 6, 11)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    cosine = recipe(lr=1.0, num_epoch=10, schedule='cosine')
    assert [learning_rate(cosine, e) for e in (0, 5, 10)] == pytest.approx([1, 0.5, 0])
    step = recipe(lr=1.0, num_epoch=10, schedule='step', milestones=(6, 8))
    assert [learning_rate(step, e) for e in (5.9, 6, 8)] == pytest.approx([1, 0.1, 0.01])
    halved = recipe(lr=2.0, num_epoch=10, schedule='step', milestones=(6,), gamma=0.5, warmup_epoch=2)
    assert [learning_rate(halved, e) for e in (1, 2, 6)] == pytest.approx([1, 2, 1])


def test_sampler_is_the_same_from_any_start():
    whole = list(FaceSampler(50, 8, 3, seed=4))
    assert len(whole) == 18
    assert list(FaceSampler(50, 8, 3, seed=4, start=7)) == whole[7:]
    ranks = [list(FaceSampler(50, 4, 3, seed=4, rank=r, world=2)) for r in (0, 1)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == whole
    assert {epoch for batch in whole[6:12] for epoch, _ in batch} == {1}
    with pytest.raises(ValueError, match='lower batch_size'):
        FaceSampler(5, 8, 1)


def test_augmentation_depends_on_seed_view_and_index_only(face_folder):
    augment = Augment(mixup=0.5, rotate=1, shift=1, light=1, saturation=1, lowres=0.5, blur=0.5, noise=0.5, occlude=0.5)
    first, second = (FaceDataset(open_faces(face_folder), augment=augment, seed=5) for _ in range(2))
    a = first.__getitems__([(0, 1), (0, 2), (1, 1)]).images
    b = second.__getitems__([(1, 1), (0, 2), (0, 1)]).images
    assert torch.equal(a, b.flip(0))
    assert not torch.equal(a[0], a[2])


def centre_of(image: np.ndarray) -> np.ndarray:
    weight = image.sum(2, dtype=float)
    return np.array([(weight.sum(0) * np.arange(112)).sum(), (weight.sum(1) * np.arange(112)).sum()]) / weight.sum()


def test_augmentations_of_the_article_are_no_others():
    """Rotation and scale without a shift, brightness and contrast without the colours (paper 002, part IV.2)."""
    spot, patch = np.zeros((112, 112, 3), np.uint8), np.empty((112, 112, 3), np.uint8)
    spot[36:76, 46:66] = 255  # about the centre, longer than wide
    patch[:] = (140, 128, 116)
    turned, lengths, shifts, chroma, means = [], [], [], [], []
    for seed in range(200):
        def apply(step: str, image: np.ndarray, seed: int = seed) -> np.ndarray:
            return Augment(flip=0, **{step: 1})(image, np.random.default_rng(seed))
        image = apply('rotate', spot)
        assert np.abs(centre_of(image) - 55.5).max() < 0.3
        moments = cv2.moments(image[..., 0])
        turned.append(np.degrees(0.5 * np.arctan2(2 * moments['mu11'], moments['mu02'] - moments['mu20'])))
        lengths.append((moments['m00'] / spot[..., 0].sum()) ** 0.5)
        shifts.append(centre_of(apply('shift', spot)) - 55.5)
        red, green, blue = apply('light', patch)[0, 0].astype(float)
        chroma.append((red - blue) / 24)
        means.append(green - 128)
        red, green, blue = apply('saturation', patch)[0, 0].astype(float)
        assert 0.55 <= (red - blue) / 24 <= 1.45 and abs(0.299 * red + 0.587 * green + 0.114 * blue - 130) < 2
    for values, low, high in ((turned, -15, 15), (lengths, 0.9, 1.1), (chroma, 0.8, 1.2), (means, -51, 51), (shifts, -4, 4)):
        room = 0.05 * (high - low)
        assert low - room < np.min(values) < low + 2 * room and high - 2 * room < np.max(values) < high + room


def test_augment_probabilities_are_checked():
    with pytest.raises(ValueError, match=r'augment\.flip=2'):
        Augment(flip=2)


def test_kill_at_any_moment_leaves_a_whole_checkpoint(recipe, tmp_path):
    """SIGKILL, which no handler sees, while checkpoints are written all the time."""
    recipe()
    command = [sys.executable, '-m', 'zoo.cli', 'train', str(tmp_path / 'tiny.py'), 'num_epoch=200', 'save_minutes=0',
               'verbose=10000']
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / 'run' / 'checkpoint.pt'
    wait_for(checkpoint.exists)
    threading.Event().wait(0.5)
    process.kill()
    process.wait()
    state = torch.load(checkpoint, weights_only=True)
    assert state['images'] > 0
