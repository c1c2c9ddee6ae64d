"""Distillation: the student follows its teachers, which are known by all they compute with; paper 003 on low quality."""

from __future__ import annotations

import json
import shutil
import tempfile

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from plugins.backbones.iresnet import IRUnit
from plugins.data.datasets import Batch, FaceSampler, face_loader
from plugins.data.pack import gather, pack_records
from plugins.data.sources import TreeFaces, shrink_crop
from plugins.preprocess import FaceError, Preprocess, l2_normalise
from recipes.config import RecipeError
from recipes.trainer.engine import Trainer
from recipes.trainer.student import forward_of, see
from recipes.trainer.targets import principal, turn
from recipes.trainer.teacher import EmbeddingTeacher, fingerprint_model
from tests.conftest import training_log
from zoo.export.onnx import export_onnx
from zoo.runtime import open_embedder


def first_batch(trainer: Trainer, size: int = 12) -> Batch:
    return next(iter(face_loader(trainer.dataset, FaceSampler(48, size, 1), 0)))


def test_distillation_follows_the_teacher(recipe, tmp_path, faces):
    torch.manual_seed(3)
    teacher = zoo.create('fdfacenet', width=0.25, num_features=48)
    with torch.no_grad():
        teacher.train()(torch.from_numpy(Preprocess()(faces)))
    export_onnx(teacher.eval(), tmp_path / 'teacher.onnx')
    config = recipe(margin_weight=0, distill={'embedding': 1.0, 'relation': 10.0}, teachers=[str(tmp_path / 'teacher.onnx')],
                    num_epoch=16, views=2, optimizer='adamw', lr=0.01, precision='bf16')
    trainer = Trainer(config)
    assert trainer.teacher.length == 48  # projected to the student's 32
    trainer.fit()
    cosine = [line['embedding'] for line in training_log(config) if 'embedding' in line]
    assert sum(cosine[-4:]) < 0.8 * sum(cosine[:4])
    cached = trainer.teacher._view(0)
    assert (cached[:] == cached[:]).all(), 'every face of a view must be cached after one epoch of it'
    batch = first_batch(trainer)
    known = trainer.teacher(batch, 0).embedding
    cached[batch.indices[0], 24:] = np.nan  # as a crash may leave a row, and as all are at first
    cached[batch.indices[1]] = np.nan
    assert torch.equal(trainer.teacher(batch, 0).embedding, known), 'what is computed anew must be what was cached'


def test_targets_are_turned_to_a_student_that_knows_others():
    random = np.random.default_rng(0)
    joined = l2_normalise(random.standard_normal((500, 40)) * np.linspace(2, 0.1, 40))
    projection = principal(joined, 32)
    rotation = np.linalg.qr(random.standard_normal((32, 32)))[0]
    known = l2_normalise(joined @ projection @ rotation)
    assert np.abs((joined @ projection * known).sum(1)).mean() < 0.3
    np.testing.assert_allclose(turn(projection, joined, known), projection @ rotation, atol=1e-5)
    np.testing.assert_array_equal(turn(projection, joined, l2_normalise(joined @ projection)), projection)


def test_weights_to_begin_from_are_taught_in_their_own_coordinates(recipe, tmp_path, faces):
    teachers = []
    for name in ('one', 'other'):
        teacher = zoo.create('fdfacenet', width=0.25, num_features=48)
        with torch.no_grad():
            teacher.train()(torch.from_numpy(Preprocess()(faces)))
        teachers.append(str(tmp_path / f'{name}.onnx'))
        export_onnx(teacher.eval(), teachers[-1])
    options = {'margin_weight': 0, 'distill': {'embedding': 1.0}, 'num_epoch': 1}
    config = recipe(**options, teachers=teachers[:1])
    Trainer(config).fit()
    init = f'{config.output}/last.safetensors'
    trainer = Trainer(recipe(**options, teachers=teachers[1:], init=init, output=str(tmp_path / 'goes on')))
    teacher, student = trainer.teacher, open_embedder(init)
    unturned = EmbeddingTeacher(tuple(teachers[1:]), 32, trainer.dataset)
    batch = first_batch(trainer, 48)
    known = l2_normalise(student(batch.clean.numpy()))
    near, far = ((l2_normalise(each(batch, 0).embedding.numpy()) * known).sum(1).mean() for each in (teacher, unturned))
    assert near > far + 0.3
    products = [targets @ targets.T for targets in (each(batch, 0).embedding.numpy() for each in (teacher, unturned))]
    np.testing.assert_allclose(*products, atol=1e-3)


@pytest.mark.parametrize(('graph', 'beside'), [('net.param', 'net.bin'), ('net.onnx', 'net.onnx.data')])
def test_a_teacher_is_known_by_all_that_it_computes_with(tmp_path, graph, beside):
    (tmp_path / graph).write_text('same')
    prints = []
    for weights in (b'one', b'two'):
        (tmp_path / beside).write_bytes(weights)
        prints.append(fingerprint_model(tmp_path / graph))
    assert prints[0] != prints[1]
    assert zoo.card('fdfacenet').weights['default'].sha256.startswith(fingerprint_model('fdfacenet'))


TAUGHT = ('label', 'attention', 'askd', 'at', 'embedding')
CBAM = {'network': 'cbam_resnext100', 'network_args': {'units': (1, 1, 1, 1), 'width': 0.25}}


def test_low_quality_distillation(recipe, tmp_path):
    """Paper 003: the teacher sees clean faces, the student degraded ones; labels and attention of all units are taught."""
    teacher = recipe(**CBAM, output=str(tmp_path / 'teacher'), num_epoch=1)
    Trainer(teacher).fit()
    distilled = recipe(**CBAM, output=str(tmp_path / 'student'), teachers=[teacher.output], num_epoch=2, label_hard=0.0,
                       distill={'label': 1.0, 'attention': 5.0, 'askd': 1.0, 'at': 0.1, 'embedding': 1.0},
                       degrade={'factors': (8,)})
    trainer = Trainer(distilled)
    trainer.fit()
    lines = [line for line in training_log(distilled) if 'margin' in line]
    assert len(lines) == 8 and all(line[key] > 0 for line in lines for key in TAUGHT)
    # a student that is its teacher, on clean faces in evaluation mode, has nothing to learn
    trainer.raw.load_state_dict(trainer.teacher.network.state_dict())
    trainer.raw.eval()
    batch = first_batch(trainer)
    same = trainer.raw(batch.clean, batch.labels, trainer.teacher(batch, 0))
    worse = trainer.raw(batch.images, batch.labels, trainer.teacher(batch, 0))
    scores = trainer.teacher(batch, 0).channel_scores
    same['askd'] -= sum((each == 0).all(1).float().mean() for each in scores)  # maps of zeros, see askd_loss
    for key in TAUGHT:
        assert same[key] < 1e-4 < worse[key], key


class OneUnit(nn.Module):
    """As much of ``cbam_resnext100`` as has all kinds of maps: compiling is slow."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = IRUnit(3, 8, 2, cbam=True)

    def forward_maps(self, x):
        y, maps = self.unit.attend(x)
        return y.flatten(1), [maps], [y]


@pytest.mark.skipif(not shutil.which('g++'), reason='torch.compile needs a C++ compiler')
def test_compiled_maps_are_the_same(faces):
    torch.manual_seed(0)
    net, x = OneUnit().eval(), torch.from_numpy(Preprocess()(faces[:4]))
    with torch.no_grad():
        eager, compiled = (see(forward_of(net, True, compiled), x) for compiled in (False, True))
    assert len(compiled.channel_maps) == len(compiled.spatial_maps) == len(compiled.features) == 1
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4)


def test_attention_needs_maps_of_equal_depth(recipe, tmp_path):
    teacher = recipe(**CBAM, output=str(tmp_path / 'teacher'), num_epoch=1)
    Trainer(teacher).fit()
    deeper = {**CBAM, 'network_args': {'units': (1, 2, 1, 1), 'width': 0.25}}
    with pytest.raises(RecipeError, match='the student has 5 blocks, the teacher 4'):
        Trainer(recipe(**deeper, output=str(tmp_path / 'a'), teachers=[teacher.output], distill={'attention': 1.0}))
    with pytest.raises(RecipeError, match='channel_scores: the student has 5 blocks, the teacher 4'):
        Trainer(recipe(**deeper, output=str(tmp_path / 'a'), teachers=[teacher.output], distill={'askd': 1.0}))
    with pytest.raises(RecipeError, match='embeddings of 24 and 32'):
        Trainer(recipe(**CBAM, embedding_size=24, output=str(tmp_path / 'a'), teachers=[teacher.output],
                       distill={'embedding': 1.0}))
    assert not (tmp_path / 'a').exists()
    with pytest.raises(RecipeError, match='fdfacenet exposes no attention maps'):
        Trainer(recipe(output=str(tmp_path / 'b'), teachers=[teacher.output], distill={'attention': 1.0}))


def test_a_teacher_sees_faces_of_its_own_size(recipe, tmp_path):
    """A finished 112-pixel training teaches a 96-pixel student: each gets the crop of its own size."""
    teacher = recipe(output=str(tmp_path / 'teacher'), num_epoch=1)
    Trainer(teacher).fit()
    trainer = Trainer(recipe(network='mobilefacenet96_eca', network_args={}, output=str(tmp_path / 'student'), num_epoch=1,
                             teachers=[teacher.output], distill={'embedding': 1.0}, val_targets=[]))
    batch = first_batch(trainer)
    assert batch.clean.shape[1:3] == (112, 112) and trainer.teacher(batch, 0).embedding.shape == (12, 32)
    trainer.fit()


def test_a_teachers_head_has_the_margins_it_ended_with(recipe, tmp_path):
    teacher = recipe(output=str(tmp_path / 'teacher'), num_epoch=1, margin_list=(1.0, 0.5, 0.0), margin_end=(1.0, 0.3, 0.1))
    Trainer(teacher).fit()
    student = Trainer(recipe(output=str(tmp_path / 'student'), teachers=[teacher.output], distill={'label': 1.0}))
    assert student.teacher.network.head.margins == pytest.approx((1.0, 0.3, 0.1))


def test_labels_are_taught_at_the_temperature(recipe, tmp_path):
    teacher = recipe(output=str(tmp_path / 'teacher'), num_epoch=1)
    Trainer(teacher).fit()
    found = []
    for temperature in (1.0, 4.0):
        trainer = Trainer(recipe(output=str(tmp_path / 'student'), teachers=[teacher.output], distill={'label': 1.0},
                                 label_temperature=temperature))
        batch = first_batch(trainer)
        found.append(trainer.raw(batch.images, batch.labels, trainer.teacher(batch, 0)))
    assert torch.equal(found[0]['margin'], found[1]['margin']) and abs(found[0]['label'] - found[1]['label']) > 0.1


def test_labels_need_the_same_persons(recipe, tmp_path, face_folder, caplog):
    """Six other persons are as many, and still others; the same persons elsewhere are the same, by name or by image."""
    def copy(name: str, person: str) -> str:
        shutil.copytree(face_folder, tmp_path / name)
        (tmp_path / name / 'person0').rename(tmp_path / name / person)
        return str(tmp_path / name)

    def taught_by(**overrides) -> None:
        output = tempfile.mkdtemp(dir=tmp_path)
        Trainer(recipe(**overrides, output=output, num_epoch=1)).fit()
        Trainer(recipe(output=f'{output}-student', teachers=[output], distill={'label': 1.0}))

    same, others = copy('same', 'person0'), copy('others', 'a stranger')
    taught_by(rec=same)
    with pytest.raises(RecipeError, match=r'others.*first difference: a stranger and person0.*the same training set'):
        taught_by(rec=others)
    pack_records(tmp_path / 'records', gather([TreeFaces(face_folder)]))
    taught_by(rec=str(tmp_path / 'records'))
    (tmp_path / 'others' / 'person1' / '0.jpg').unlink()
    pack_records(tmp_path / 'fewer', gather([TreeFaces(others)]))
    with pytest.raises(RecipeError, match=r'fewer.*other images'):
        taught_by(rec=str(tmp_path / 'fewer'))
    output = recipe(rec=same, output=str(tmp_path / 'gone'), num_epoch=1)
    Trainer(output).fit()
    shutil.rmtree(same)
    assert 'cannot be read' not in caplog.text
    Trainer(recipe(output=str(tmp_path / 'x'), teachers=[output.output], distill={'label': 1.0}))
    assert 'its faces cannot be read' in caplog.text and 'if they differ, its labels teach nonsense' in caplog.text


def test_records_packed_anew_in_the_same_place_are_others(recipe, tmp_path, face_folder):
    """As many persons under other numbers, as another draw of those held out gives."""
    def pack() -> None:
        pack_records(tmp_path / 'records', gather([TreeFaces(tmp_path / 'faces')]))

    shutil.copytree(face_folder, tmp_path / 'faces')
    pack()
    records = str(tmp_path / 'records')
    teacher = recipe(rec=records, output=str(tmp_path / 'teacher'), num_epoch=1)
    Trainer(teacher).fit()
    student = recipe(rec=records, output=str(tmp_path / 'student'), teachers=[teacher.output], distill={'label': 1.0})
    Trainer(student)
    (tmp_path / 'faces' / 'person0').rename(tmp_path / 'faces' / 'the last')
    pack()
    with pytest.raises(RecipeError, match=r'teacher learned from other images or labels than \S+records holds now'):
        Trainer(student)


def test_a_teacher_computes_in_its_students_precision(recipe, tmp_path):
    teacher = recipe(**CBAM, output=str(tmp_path / 'teacher'), num_epoch=1)
    Trainer(teacher).fit()
    exact, rounded = (Trainer(recipe(**CBAM, output=str(tmp_path / 'student'), teachers=[teacher.output], precision=precision,
                                     distill={'label': 1.0, 'attention': 1.0})) for precision in ('32', 'bf16'))
    batch = first_batch(exact)
    exact, rounded = (trainer.teacher(batch, 0) for trainer in (exact, rounded))
    for a, b in ((exact.embedding, rounded.embedding), (exact.logits, rounded.logits),
                 (exact.spatial_scores[0], rounded.spatial_scores[0])):
        assert b.dtype == torch.float32 and 0 < (a - b).norm() < 0.05 * a.norm()


def test_damaged_teachers(recipe, tmp_path):
    """Whatever is wrong with a finished training, the message names the file and what to do."""
    teacher = recipe(output=str(tmp_path / 'teacher'), num_epoch=1)
    Trainer(teacher).fit()
    run = tmp_path / 'teacher'
    good = {name: (run / name).read_bytes() for name in ('recipe.yaml', 'checkpoint.pt')}

    def refused(message: str, path: str = teacher.output) -> None:
        with pytest.raises(RecipeError, match=message):
            Trainer(recipe(output=str(tmp_path / 'student'), teachers=[path], distill={'embedding': 1.0}))
        for name, data in good.items():
            (run / name).write_bytes(data)

    refused('nowhere is not there; name a model of the zoo', str(tmp_path / 'nowhere'))
    (tmp_path / 'empty').mkdir()
    refused('empty holds neither a finished training nor a network', str(tmp_path / 'empty'))
    (run / 'checkpoint.pt').write_bytes(good['checkpoint.pt'][:1000])
    refused(r'checkpoint\.pt: cannot be read .*copy it again')
    torch.save({'state_dict': {}}, run / 'checkpoint.pt')
    refused(r'checkpoint\.pt: not the checkpoint of a recogniser, because it has no ema and no student')
    (run / 'checkpoint.pt').unlink()
    refused(r'checkpoint\.pt is missing; copy the whole output folder')
    (run / 'recipe.yaml').unlink()
    refused(r'recipe\.yaml, which names the network, is missing')
    for old, new, message in ((b'momentum:', b'mommentum:', "unknown key 'mommentum'; did you mean 'momentum'"),
                              (b'momentum: 0.9', b'momentum: -1', 'momentum=-1'), (b'network: fdfacenet\n', b'', 'network'),
                              (b'width: 0.25', b'width: 0.5', 'does not fit recipe'),
                              (b'network:', b'[network', 'not YAML')):
        assert old in good['recipe.yaml'], old
        (run / 'recipe.yaml').write_bytes(good['recipe.yaml'].replace(old, new))
        refused(f'(?s){message}')


def test_an_unfinished_teacher_is_named(recipe, tmp_path, caplog):
    teacher = recipe(output=str(tmp_path / 'teacher'), num_epoch=2)
    Trainer(teacher).fit()
    student = recipe(output=str(tmp_path / 'student'), teachers=[teacher.output], distill={'embedding': 1.0})
    Trainer(student)
    assert 'not finished' not in caplog.text
    state = torch.load(tmp_path / 'teacher/checkpoint.pt', weights_only=True)
    torch.save({**state, 'images': 36}, tmp_path / 'teacher/checkpoint.pt')
    Trainer(student)
    assert 'teacher: its training is not finished, it has seen 36 of 96 images' in caplog.text


def test_the_average_of_a_distilled_training_teaches(recipe, tmp_path):
    """A chain of trainings: the second learned from the first and from centres, without a head, the third learns from the
    second's average."""
    first = recipe(output=str(tmp_path / 'first'), num_epoch=1)
    Trainer(first).fit()
    second = recipe(output=str(tmp_path / 'second'), num_epoch=1, margin_weight=0, teachers=[first.output], ema=0.5,
                    distill={'embedding': 1.0}, centre_weight=0.01)
    Trainer(second).fit()
    third = Trainer(recipe(output=str(tmp_path / 'third'), margin_weight=0, teachers=[second.output],
                           distill={'embedding': 1.0}))
    average = zoo.load(tmp_path / 'second/last.safetensors').state_dict()
    for key, value in third.teacher.network.backbone.state_dict().items():
        assert torch.equal(value, average[key]), key


def test_teacher_of_another_input_size_is_refused(recipe, tmp_path):
    export_onnx(zoo.create('fdfacenet', width=0.25, input_size=96), tmp_path / 'small.onnx')
    (tmp_path / 'small.json').write_text(json.dumps({'preprocess': {'input_size': 96}}))
    with pytest.raises(FaceError, match='wants 96-pixel faces, the student 112'):
        Trainer(recipe(margin_weight=0, distill={'embedding': 1.0, 'relation': 10.0}, teachers=[str(tmp_path / 'small.onnx')]))


def test_a_96_pixel_student_sees_its_teachers_crop_made_smaller(recipe, tmp_path):
    export_onnx(zoo.create('fdfacenet', width=0.25, num_features=32), tmp_path / 'teacher.onnx')
    config = recipe(network='mobilefacenet96_eca', network_args={}, distill={'embedding': 0.1}, num_epoch=6,
                    teachers=[str(tmp_path / 'teacher.onnx')])
    trainer = Trainer(config)
    batch = first_batch(trainer)
    assert batch.clean.shape == (12, 112, 112, 3) and batch.images.shape == (12, 96, 96, 3)
    assert (batch.images[0].numpy() == shrink_crop(batch.clean[0].numpy(), 96)).all()
    assert trainer.fit()['six']['pairs'] == 40  # measured on 112-pixel crops; the first epochs collapse and are not measured
