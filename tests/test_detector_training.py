"""Training of detectors: label files, views that carry their labels along, losses, and a run that learns and resumes."""

from __future__ import annotations

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch

import zoo
from plugins.data.pictures import Pictures, read_labels, write_labels
from plugins.data.scenes import SceneAugment
from plugins.faces import Faces
from plugins.files import sha256_file
from plugins.losses.multibox import Targets, assign, dense_distillation, multibox_loss
from plugins.preprocess import FaceError
from plugins.registry import create_detector
from recipes import bundle
from recipes.bundle import score
from recipes.bundle.detection import choose_score, compare_pairs, score_table, separation
from recipes.config import RecipeError, load_recipe
from recipes.trainer.checkpoint import CheckpointError
from recipes.trainer.detector import DetectorTrainer
from recipes.trainer.labels import vote
from recipes.trainer.run import Interrupted
from tests.conftest import encode
from zoo.cli import main
from zoo.evaluate.detection import GroundTruth
from zoo.hub import resolve
from zoo.model_card import CARDS, read_card
from zoo.pipeline.sample import sample_landmarks

SAMPLE = np.float32([[20, 22], [40, 22], [30, 32], [22, 42], [38, 42]])  # landmarks of a face in a box from 10 to 50


def one_face(score: float = 1.0) -> Faces:
    return Faces.from_rows([[10, 10, 50, 54, *SAMPLE.ravel(), score]])


@pytest.fixture(scope='module')
def labelled(picture, tmp_path_factory):
    """Twelve cuts of the group photo, each around one face, with the label file that says where it is."""
    root = tmp_path_factory.mktemp('pictures')
    labels = {}
    for number, points in enumerate(np.float32(sample_landmarks())):
        middle, side = points.mean(0), 2.6 * np.linalg.norm(points[0] - points[1])
        for shift in (-20, 25):
            left, top = (np.maximum(middle - 130 + shift, 0)).astype(int)
            name = f'{number}_{shift}.jpg'
            (root / name).write_bytes(encode(picture[top:top + 260, left:left + 260]))
            own = points - (left, top)
            box = np.concatenate([own.mean(0) - side / 2, own.mean(0) + side / 2])
            labels[name] = Faces.from_rows([[*box, *own.ravel(), 1.0]])
    (root / 'label.txt').write_text(write_labels(labels))
    return root


def test_label_files_round_trip():
    labels = {'a/b.jpg': one_face(0.75), 'empty.jpg': Faces.from_rows([]), 'bare.jpg': Faces.from_rows(
        [[1, 2, 11, 22, *[np.nan] * 10, 1.0]]), 'border.jpg': Faces.from_rows(
        [[-9, 2, 31, 52, -3, 20, 20, 20, np.nan, np.nan, -1, 40, 20, 40, 1.0]])}  # an eye and a mouth corner beyond the border
    back = read_labels(write_labels(labels))
    for name, faces in labels.items():
        np.testing.assert_allclose(back[name].boxes, faces.boxes, atol=0.02)
        np.testing.assert_allclose(back[name].landmarks, faces.landmarks, atol=0.02)
        np.testing.assert_allclose(back[name].scores, faces.scores, atol=1e-3)
    assert len(read_labels('# a.jpg\n1 2 3 4\n')['a.jpg']) == 1
    for text, word in (('1 2 3 4\n', 'before the first'), ('# a.jpg\n1 two 3\n', 'line 2'), ('# a.jpg\n1 2 nan 4', 'line 2'),
                       ('# a.jpg\n9 9 3 -4', 'line 2')):
        with pytest.raises(FaceError, match=word):
            read_labels(text)


def test_blurred_faces_of_wider_are_faces():
    """The last number of RetinaFace's label file is no score: a training left out all faces that it calls blurred."""
    rows = ('78 221 7 8 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 0.2',
            '78 238 14 17 84.2 244.6 1.0 89.5 244.5 1.0 87.0 247.9 1.0 85.1 250.7 1.0 88.5 250.7 1.0 0.36')
    faces = read_labels('\n'.join(('# 0_Parade_marchingband_1_799.jpg', *rows)))['0_Parade_marchingband_1_799.jpg']
    assert faces.scores.tolist() == [1, 1] and np.isnan(faces.landmarks[0]).all() and faces.landmarks[1, 0, 1] > 244
    assert assign([faces[1:]], create_detector('retinaface_mnet025').anchors.priors(320, 320)).face.any()


def test_labels_follow_every_view(labelled):
    """The bright dot painted on each nose stays under the labelled nose, whatever the view does."""
    dot = np.zeros((64, 64, 3), np.uint8)
    dot[30:35, 28:33] = 255
    plain = SceneAugment(colour=0, grey=0, lowres=0, blur=0, noise=0, turn=1.0)
    seen = 0
    for seed in range(20):
        view, faces = plain(128, lambda longest: (dot, one_face()), np.random.default_rng(seed))
        for x, y in faces.landmarks[:, 2]:
            if 3 < x < 124 and 3 < y < 124:
                patch = view[int(y) - 2:int(y) + 3, int(x) - 2:int(x) + 3]
                seen += 1
                assert patch.max() > 80
    assert seen > 10


def test_mirrored_faces_keep_left_on_the_left():
    faces = one_face().warped(np.float64([[-1, 0, 63], [0, 1, 0]]))
    assert faces.landmarks[0, 0, 0] < faces.landmarks[0, 1, 0] and faces.landmarks[0, 3, 0] < faces.landmarks[0, 4, 0]


def test_multibox_loss_is_zero_for_the_truth():
    model = create_detector('retinaface_mnet025')
    priors = model.anchors.priors(64, 64)
    targets = assign([one_face()], priors)
    assert targets.face.any() and not targets.face.all()
    logits = torch.stack([-20.0 * (targets.face * 2 - 1), 20.0 * (targets.face * 2 - 1)], 2)
    right = multibox_loss((logits, targets.boxes, targets.landmarks), targets)
    assert max(map(float, right.values())) < 1e-4
    wrong = multibox_loss((-logits, targets.boxes + 1, targets.landmarks - 1), targets)
    assert min(map(float, wrong.values())) > 0.5
    soft = dense_distillation((logits, targets.boxes, targets.landmarks), (logits, targets.boxes, targets.landmarks), targets)
    assert max(map(float, soft.values())) < 1e-4


def test_multibox_loss_by_hand():
    """A face, an anchor near it that says nothing, and ten of the background, of which the seven worst count; as many in a
    picture without a face. Five landmarks, one of them known."""
    face, near = torch.zeros(12, dtype=torch.bool), torch.zeros(12)
    face[0], near[0], near[1] = True, 0.6, 0.3
    points = torch.full((12, 10), float('nan'))
    points[0, 4:6] = torch.tensor([0.05, 3.0])
    pictures = [(face, near, torch.full((12, 4), 2.0), points),
                (torch.zeros_like(face), torch.zeros(12), torch.zeros(12, 4), torch.zeros(12, 10))]
    belief = torch.tensor([[0.5, 20.0, *(number / 10 for number in range(10))], [0.3] * 12])
    outputs = torch.stack([torch.zeros(2, 12), belief], 2), torch.zeros(2, 12, 4), torch.zeros(2, 12, 10)
    outputs[2][0, 0, 6:] = 7.0  # where nothing is known
    found = multibox_loss(outputs, Targets(pictures))
    torch.testing.assert_close(multibox_loss(tuple(torch.cat([part, part]) for part in outputs), Targets(2 * pictures)), found)
    entropy = torch.log(1 + torch.exp(torch.tensor([-0.5, *(number / 10 for number in range(3, 10)), *[0.3] * 7])))
    assert found['score'].item() == pytest.approx(entropy.sum().item(), rel=1e-5)
    assert found['box'].item() == pytest.approx(4 * (2 - 0.05), rel=1e-5)  # linear from a tenth on
    assert found['landmark'].item() == pytest.approx(0.05 ** 2 / (2 * 0.1) + (3 - 0.05), rel=1e-5)


def test_dense_distillation_by_hand():
    """By anchor: a labelled face that the teacher misses; one near it that the teacher is sure of; a face of the teacher's far
    from all labels, which is left out; background; one near the face that the teacher is not sure of."""
    face, near = torch.tensor([True, False, False, False, False]), torch.tensor([0.6, 0.3, 0.0, 0.0, 0.3])
    targets = Targets([(face, near, torch.ones(5, 4), torch.full((5, 10), float('nan')))])
    opinion, belief = torch.tensor([0.1, 0.9, 0.8, 0.1, 0.4]), torch.tensor([0.2, -0.3, 4.0, 1.0, -1.0])
    student, teacher = ((torch.stack([torch.zeros(1, 5), logit[None]], 2), torch.full((1, 5, 4), value),
                         torch.full((1, 5, 10), value)) for logit, value in ((belief, 0.0), (torch.logit(opinion), 3.0)))
    found = dense_distillation(student, teacher, targets)
    target, counts = torch.tensor([1.0, 0.9, 0.1, 0.4]), [0, 1, 3, 4]
    p = torch.sigmoid(belief[counts])
    focal = (target - p) ** 2 * -(target * torch.log(p) + (1 - target) * torch.log(1 - p))
    assert found['score'].item() == pytest.approx((focal.sum() / target.sum()).item(), rel=1e-5)
    assert found['box'].item() == pytest.approx((1 * 4 * 0.95 + 0.9 * 4 * 2.95) / 1.9, rel=1e-5)
    assert found['landmark'].item() == pytest.approx(0.9 * 10 * 2.95 / 1.9, rel=1e-5)


def test_faces_that_are_not_sure_are_near_only():
    priors = create_detector('retinaface_mnet025').anchors.priors(64, 64)
    sure, doubtful = assign([one_face(0.6), one_face(0.4)], priors).face
    near = assign([one_face(0.6), one_face(0.4)], priors).near
    assert sure.any() and not doubtful.any() and near[1].max() > 0.4 and (near[1] <= near[0]).all()


def test_voting_needs_no_face():
    class Nobody:
        name, strides = 'nobody', (8, 16, 32)

        def __call__(self, pictures):
            cells = [pictures.shape[1] // s * (pictures.shape[2] // s) * 2 for s in self.strides]
            return [np.zeros((1, k, c), np.float32) for c in (1, 4, 10) for k in cells]
    assert len(vote(Nobody(), np.zeros((50, 70, 3), np.uint8))) == 0


def test_large_pictures_are_looked_at_in_a_size_that_has_anchors(tmp_path, monkeypatch):
    """A face that fills a camera's picture was not found, and other things were: no anchor is that large. What is looked at in
    twice the size comes from the picture itself: its small faces are gone from the first view."""
    seen, noise = [], np.random.default_rng(0).integers(0, 256, (900, 1280, 3)).astype(np.uint8)

    def detect(net, view: np.ndarray) -> Faces:
        """A face over half of the view."""
        seen.append(view)
        return one_face(0.75).warped(np.hstack([np.eye(2) * view.shape[1] / 80, [[view.shape[1] / 8], [0]]]))
    monkeypatch.setattr('recipes.trainer.labels._detect', detect)
    large, small = vote(None, noise), vote(None, noise[:450, :640])
    assert [view.shape[:2] for view in seen] == 2 * [(450, 640), (450, 640), (900, 1280), (900, 1280)]
    assert (seen[2] == noise).all() and (seen[3] == noise[:, ::-1]).all() and (seen[4] == noise[:450, :640]).all()
    np.testing.assert_allclose(large.boxes, [[320, 160, 960, 864]], atol=2)
    np.testing.assert_allclose(large.landmarks, 2 * small.landmarks, rtol=1e-6)


OPTIONS = {'num_epoch': 2, 'batch_size': 4, 'view_size': 64, 'warmup_epoch': 0.5, 'precision': '32', 'num_workers': 0,
           'frequent': 1, 'device': 'cpu'}


def test_training_learns_and_resumes(labelled, tmp_path):
    options = {**OPTIONS, 'pictures': str(labelled), 'labels': str(labelled / 'label.txt'), 'teacher': None, 'num_epoch': 4,
               'lr': 0.01}
    whole = DetectorTrainer(load_recipe('retinaface_mnet025_kd', {**options, 'output': str(tmp_path / 'whole')})).fit()
    losses = [json.loads(line) for line in (tmp_path / 'whole' / 'log.jsonl').read_text().splitlines()]
    assert len(losses) == 12 and all(np.isfinite(whole['train'][key]) for key in ('score', 'box', 'landmark'))
    assert losses[-1]['score'] < 0.99 * losses[0]['score'], 'a running mean that forgets 1 % a step'
    assert (tmp_path / 'whole' / 'last.safetensors').is_file()
    broken = DetectorTrainer(load_recipe('retinaface_mnet025_kd', {**options, 'output': str(tmp_path / 'halves')}))
    step = broken._step

    def stop_after_two(*args):
        if args[3] == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*args)
    broken._step = stop_after_two
    with pytest.raises(Interrupted):
        broken.fit()
    DetectorTrainer(load_recipe('retinaface_mnet025_kd', {**options, 'output': str(tmp_path / 'halves'), 'resume': True})).fit()
    assert sha256_file(tmp_path / 'halves' / 'last.safetensors') == sha256_file(tmp_path / 'whole' / 'last.safetensors')
    other = tmp_path / 'label.txt'
    shutil.copy(labelled / 'label.txt', other)
    halves = {**options, 'labels': str(other), 'output': str(tmp_path / 'others')}
    DetectorTrainer(load_recipe('retinaface_mnet025_kd', halves))._save()
    other.write_text(other.read_text().replace('# 0_25.jpg\n', '# 0_25.jpg\n1 2 30 40\n'))
    with pytest.raises(CheckpointError, match=r'digest of the labels: \w+ -> \w+'):
        DetectorTrainer(load_recipe('retinaface_mnet025_kd', {**halves, 'resume': True}))


def test_a_teacher_labels_the_pictures_and_judges_every_anchor(labelled, tmp_path, monkeypatch):
    def trained(**options) -> dict:
        config = load_recipe('retinaface_mnet025_kd', {**OPTIONS, 'num_epoch': 1, 'pictures': str(labelled), **options})
        return DetectorTrainer(config).fit()['train']

    teacher = str(resolve(zoo.card('retinaface_mnet025').weights['default']))
    (tmp_path / 'taught').mkdir()
    (tmp_path / 'taught' / 'label.txt').write_text('# 0_25.jpg\n1 2 30 40\n')  # of an earlier teacher
    taught = trained(teacher=teacher, output=str(tmp_path / 'taught'))
    found = read_labels((tmp_path / 'taught' / 'label.txt').read_text())
    for name, faces in read_labels((labelled / 'label.txt').read_text()).items():
        distances = np.linalg.norm(found[name].landmarks - faces.landmarks, axis=2).mean(1)
        assert distances.min() < 5 and found[name].scores[distances.argmin()] > 0.9
    monkeypatch.setattr('recipes.trainer.detector.label_pictures', lambda *args: pytest.fail('labelled twice'))
    trained(teacher=teacher, output=str(tmp_path / 'taught'), resume=True)
    alone = trained(teacher=None, labels=str(tmp_path / 'taught' / 'label.txt'), output=str(tmp_path / 'alone'))
    assert all(abs(taught[key] - alone[key]) > 0.01 for key in ('score', 'box', 'landmark'))


def test_labels_without_a_face_are_refused(labelled, tmp_path):
    (tmp_path / 'label.txt').write_text(''.join(f'# {path.name}\n' for path in labelled.glob('*.jpg')))
    config = load_recipe('retinaface_mnet025_kd', {**OPTIONS, 'pictures': str(labelled), 'teacher': None,
                                                   'labels': str(tmp_path / 'label.txt'), 'output': str(tmp_path / 'out')})
    with pytest.raises(FaceError, match=r'label\.txt: no face in [1-9]'):
        DetectorTrainer(config)


def test_what_does_not_fit_is_said_before_the_labels(labelled, tmp_path, monkeypatch):
    """They take hours of large sets."""
    monkeypatch.setattr('recipes.trainer.detector.label_pictures', lambda *args: pytest.fail('labelled for nothing'))
    monkeypatch.setattr(DetectorTrainer, '_load_teacher', lambda self: create_detector(self.config.network).eval())
    torch.save({}, tmp_path / 'none.pth')
    for options, said in (({'network': 'ssd_mobilenetv2', 'view_size': 96}, r'view_size=96: .* multiples of 64'),
                          ({'init': str(tmp_path / 'none.pth')}, r'none\.pth')):
        config = load_recipe('retinaface_mnet025_kd', {**OPTIONS, 'pictures': str(labelled), 'teacher': 'a.pth', **options,
                                                       'output': str(tmp_path / 'out')})
        with pytest.raises(ValueError, match=said):
            DetectorTrainer(config)


def test_recipes_of_detectors_are_checked():
    with pytest.raises(RecipeError, match='multiple of 32'):
        load_recipe('retinaface_mnet025_kd', {'view_size': 100})
    with pytest.raises(RecipeError, match='nothing to learn'):
        load_recipe('retinaface_mnet025_kd', {'teacher': None})
    for name, value in (('mosaic', 1), ('colour', 3), ('zoom', (0, 2)), ('zoom', (1,)), ('zoom', 1), ('grid', (1.5, -0.5)),
                        ('angle', -1), ('smallest', float('nan')), ('grid', 3 * (0.3333333,))):
        with pytest.raises(RecipeError, match=rf'augment(\.|=.*){name}'):
            load_recipe('retinaface_mnet025_kd', {'augment': {name: value}})
    with pytest.raises(RecipeError, match=r'box_weight=-1\.0: must not be negative'):
        load_recipe('retinaface_mnet025_kd', {'box_weight': -1.0})


def test_recipes_of_detectors_are_checked_before_a_training(labelled, tmp_path, capsys):
    """What a training refuses, `facezoo recipe check` says: schedule, network, weights and labels."""
    (tmp_path / 'cut.pth').write_bytes(b'cut')
    (tmp_path / 'label.txt').write_text('# none.jpg\n')
    words = ['recipe', 'check', 'retinaface_mnet025_kd', f'pictures={labelled}', 'teacher=none', 'init=retinaface_mnet025',
             f'labels={labelled}/label.txt']
    assert main(words) == 0 and f'fits {labelled}' in capsys.readouterr().out
    for word, said in (('warmup_epoch=80', 'warmup_epoch=80 is not below num_epoch=80'),
                       ('network=fdfacenet', "unknown detector 'fdfacenet'"),
                       ('network=ssd_mobilenetv2; init=none; view_size=96', 'view_size=96: 96x96: a detector takes sides'),
                       ('network_args={"sides": 1}', "network='retinaface_mnet025', network_args={'sides': 1}: "),
                       (f'teacher={tmp_path}/cut.pth', 'cut.pth: cannot be read as weights'),
                       ('teacher=gone.pth', "teacher='gone.pth': gone.pth: no such weights file"),
                       ('init=gone', "init='gone': neither a weights file nor a model"),
                       (f'labels={tmp_path}/label.txt', "'none.jpg'"), ('pictures=gone', 'gone')):
        assert main([*words, *word.split('; ')]) == 1, word
        out = capsys.readouterr().out
        assert said in out and ': wrong: 1\n' in out, out


def test_pictures_that_are_not_there(labelled):
    with pytest.raises(FaceError, match=r"'none\.jpg'"):
        Pictures(labelled, {'none.jpg': one_face()})


def test_pictures_that_are_none(tmp_path):
    """Half a JPEG, too, whose other half OpenCV 4 makes grey: faces were learned from there."""
    header = encode(np.zeros((40, 40, 3), np.uint8), '.png')[:40]
    photo = encode(np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8), '.jpg')
    for name, data, said in (('empty.jpg', b'', 'empty file'), ('junk.jpg', b'junk', 'not an image'),
                             ('damaged.png', header[:20] + b'\xff' * 20, 'not an image'),
                             ('cut.jpg', photo[:len(photo) // 2], 'cut short after')):
        (tmp_path / name).write_bytes(data)
        for longest in (None, 20):
            with pytest.raises(FaceError, match=rf'{name}: {said}'):
                Pictures(tmp_path, {name: one_face()}).load(0, longest)


@pytest.mark.parametrize(('longest', 'reduced'), [(None, 1), (41, 1), (40, 2), (20, 4), (1, 8)])
def test_pictures_come_no_smaller_than_asked(tmp_path, longest, reduced):
    """At 1/2, 1/4 or 1/8, the faces alike; red stays red."""
    (tmp_path / 'a.jpg').write_bytes(encode(np.full((48, 80, 3), (200, 30, 60), np.uint8), '.jpg'))
    picture, faces = Pictures(tmp_path, {'a.jpg': one_face()}).load(0, longest)
    assert picture.shape == (48 // reduced, 80 // reduced, 3)
    np.testing.assert_allclose(picture[0, 0], (200, 30, 60), atol=3)
    np.testing.assert_allclose(faces.boxes, one_face().boxes / reduced)


# the lowest score of a face

def test_score_by_its_rule():
    """Two false alarms in 50 pictures, at 0.405 and 0.705: the rule allows one, so the score lies above the lower one."""
    truth = [GroundTruth(one_face(), np.ones(1, bool))] * 50
    found = [one_face(0.9)] * 50
    false = Faces.from_rows([[200, 200, 240, 240, *SAMPLE.ravel(), score] for score in (0.405, 0.705)])
    found[0] = Faces.join([one_face(0.9), false])
    table = score_table(found, truth)
    assert choose_score(table) == 0.41
    assert table[0.4]['false_alarms'] == 0.04 and table[0.41] == {'recall': 1, 'precision': 0.9804, 'false_alarms': 0.02}
    worse = [Faces.join([faces, false]) for faces in found]
    assert choose_score(score_table(worse, truth)) == 0.71
    false.scores[:] = 1
    with pytest.raises(ValueError, match=r'even at score 0\.99'):
        choose_score(score_table([Faces.join([faces, false]) for faces in found], truth))


def test_the_card_has_the_measured_score():
    report = json.loads((CARDS.parents[1] / 'results' / 'detector_score.json').read_text())
    weights = zoo.card(report['model']).weights['default']
    assert weights.thresholds['score'] == report['score'] and weights.sha256 == report['sha256']
    assert choose_score({float(key): row for key, row in report['table'].items()}) == report['score']
    measured, row = weights.metrics['heldout']['student']['as_is'], report['table'][f'{report["score"]:.2f}']
    assert {key: measured[key] for key in row} == row


def test_score_is_written_into_the_card(labelled, tmp_path, monkeypatch):
    """By the command, with the bundled weights as their own teacher; the card in the sources stays as it is."""
    monkeypatch.setattr(bundle, 'CARDS', tmp_path)
    card = tmp_path / 'retinaface_mnet025.yaml'
    before = (CARDS / card.name).read_text()
    card.write_text(before)
    teacher = str(resolve(zoo.card('retinaface_mnet025').weights['default']))
    score.main(['retinaface_mnet025', '--teacher', teacher, '--pictures', str(labelled), '--out', str(tmp_path / 'score.json')])
    report, entry = json.loads((tmp_path / 'score.json').read_text()), read_card(card).weights['default']
    chosen, heldout = report['score'], entry.metrics['heldout']
    assert entry.thresholds == {'score': chosen} and report['table'][f'{chosen:.2f}']['false_alarms'] <= 1 / 50
    assert heldout['student']['as_is']['pictures'] == 12 and f'at score {chosen:g}' in heldout['conditions']
    assert entry.sha256 == report['sha256'] and entry.limits == zoo.card('retinaface_mnet025').weights['default'].limits
    assert len(report['halves']) == 2 and str(labelled.parent.parent) not in report['command']
    assert (CARDS / card.name).read_text() == before


def test_alignments_compared_pair_by_pair():
    """Scores by hand, of which one genuine pair is lost; then noise, whose effect lies within its error."""
    teacher, same = np.repeat([3, 5, -1, 1.], 10), np.arange(40) < 20
    assert separation(teacher, same) == 4
    student = np.where(np.arange(40) == 0, -2, teacher)
    result = compare_pairs(student, teacher, same)
    assert result['gain'] == -1 / 40 and result['error'] == 1 / 40
    assert result['separation_gain'] == pytest.approx(separation(student, same) - 4, abs=1e-4)
    assert result['separation_gain'] < -1
    rng, same = np.random.default_rng(1), np.arange(2000) < 1000
    teacher = 4 * same + rng.normal(size=2000)
    result = compare_pairs(teacher + 0.1 * rng.normal(size=2000), teacher, same)
    assert 0.005 < result['separation_error'] < 0.02 and abs(result['separation_gain'] + 0.02) < 2 * result['separation_error']
