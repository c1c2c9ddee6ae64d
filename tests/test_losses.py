"""Losses against values worked out by hand, and degradation."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from plugins.data.degrade import Degrade, degrade, misalign
from plugins.losses.distillation import (
    DISTILLATIONS,
    Seen,
    askd_loss,
    attention_loss,
    attention_transfer_loss,
    embedding_loss,
    label_loss,
    relation_loss,
)
from plugins.losses.margin import AdaFaceHead, CentreLoss, MarginHead, SoftmaxHead, add_margin, margin_at
from plugins.preprocess import FaceError
from recipes.config import DISTILL
from zoo.jetson.align import TEMPLATE, similarity_transform

COSINE = torch.tensor([[0.8, 0.1], [-0.3, 0.5], [0.2, 0.9]])
LABELS = torch.tensor([0, 1, -1])


@pytest.mark.parametrize(('margins', 'expected'), [
    ((1.0, 0.5, 0.0), [math.cos(math.acos(0.8) + 0.5), math.cos(math.acos(0.5) + 0.5)]),  # ArcFace
    ((1.0, 0.0, 0.4), [0.4, 0.1]),  # CosFace
    ((1.2, 0.3, 0.1), [math.cos(1.2 * math.acos(0.8) + 0.3) - 0.1, math.cos(1.2 * math.acos(0.5) + 0.3) - 0.1])])
def test_margins(margins, expected):
    found = add_margin(COSINE, LABELS, margins)
    torch.testing.assert_close(found[[0, 1], [0, 1]], torch.tensor(expected))
    torch.testing.assert_close(found[[0, 1, 2, 2], [1, 0, 0, 1]], COSINE[[0, 1, 2, 2], [1, 0, 0, 1]])


@pytest.mark.parametrize(('margins', 'drop'), [
    ((1.0, 0.5, 0.0), 0.5 * math.sin(0.5)), ((1.0, 0.3, 0.2), 0.3 * math.sin(0.3) + 0.2),
    ((1.2, 0.3, 0.1), 1 + math.cos((math.pi - 0.3) / 1.2) + 0.1)])
def test_the_logit_falls_beyond_pi_as_well(margins, drop):
    """Closed form on both sides of ``m1 * theta + m2 = pi``; the nearer to the own centre, the higher, everywhere."""
    m1, m2, m3 = margins
    theta = torch.linspace(0.01, math.pi - 0.001, 500)
    cosine = torch.cos(theta)[:, None].requires_grad_()
    found = add_margin(cosine, torch.zeros(500, dtype=torch.long), margins)[:, 0]
    beyond = m1 * theta + m2 > math.pi
    assert 40 < beyond.sum() < 200
    expected = torch.where(beyond, torch.cos(theta) - drop, torch.cos(m1 * theta + m2) - m3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)  # arccos is steep at the ends
    assert (found.diff() < 0).all()
    found.sum().backward()
    assert (cosine.grad > -1e-3).all() and (cosine.grad[beyond] == 1).all()


def test_logits_are_arcface_torchs_up_to_pi():
    """``losses.py`` of arcface_torch, written down: ``cos(arccos(x) + m2)`` at the own class, whatever the angle."""
    cosine, labels = torch.rand(64, 9) * 1.8 - 0.9, torch.randint(9, (64,))
    theirs = cosine.arccos()
    theirs[range(64), labels] += 0.5
    same = theirs[range(64), labels] <= math.pi
    torch.testing.assert_close(add_margin(cosine, labels, (1.0, 0.5, 0.0))[same], theirs.cos()[same], rtol=0, atol=1e-5)


def test_margin_loss_by_hand():
    head = MarginHead(2, 2, (1.0, 0.5, 0.0), scale=4.0)
    head.weight.data = torch.tensor([[3.0, 0.0], [0.0, 0.5]])  # lengths must not matter
    embedding = torch.tensor([[2.0, 2.0]])
    cosine = math.sqrt(0.5)
    own, other = 4 * math.cos(math.acos(cosine) + 0.5), 4 * cosine
    expected = -math.log(math.exp(own) / (math.exp(own) + math.exp(other)))
    assert head(embedding, torch.tensor([0])).item() == pytest.approx(expected, rel=1e-5)
    assert head(embedding, torch.tensor([-1])).item() == 0


def test_gradient_is_finite_at_the_poles():
    head = MarginHead(2, 2)
    head.weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    for label in (0, 1):
        embedding = torch.tensor([[1.0, 0.0]], requires_grad=True)
        head(embedding, torch.tensor([label])).backward()
        assert torch.isfinite(embedding.grad).all()


def test_label_outside_the_classes():
    with pytest.raises(ValueError, match='label 2 does not fit num_classes=2'):
        MarginHead(2, 4)(torch.randn(1, 4), torch.tensor([2]))


def test_dynamic_margin():
    start, end = (1.0, 0.5, 0.0), (1.0, 0.3, 0.0)
    assert margin_at(start, end, 0.5) == pytest.approx((1.0, 0.4, 0.0))
    assert margin_at(start, None, 0.5) == start


def test_adaface_by_hand():
    head = AdaFaceHead(2, 2, (1.0, 0.4, 0.0), scale=1.0).eval()
    head.weight.data = torch.eye(2)
    head.norm_mean.fill_(10.0)
    head.norm_std.fill_(2.0)
    norm, theta = 14.0, math.pi / 3
    embedding = norm * torch.tensor([[math.cos(theta), math.sin(theta)]])
    k = (norm - 10) / (2 + 1e-3) * 0.333
    expected = math.cos(theta - 0.4 * k) - (0.4 + 0.4 * k)
    found = head.logits(embedding, torch.tensor([0]))
    assert found[0, 0].item() == pytest.approx(expected, rel=1e-4)
    assert found[0, 1].item() == pytest.approx(math.sin(theta), rel=1e-5)
    unknown = head.logits(embedding, torch.tensor([-1]))  # no class is its own
    torch.testing.assert_close(unknown, embedding / norm)
    head.train().logits(embedding.expand(2, 2), torch.tensor([0, 0]))
    assert head.norm_mean.item() == pytest.approx(0.99 * 10 + 0.01 * 14)


def test_adaface_has_limits():
    """The worst quality is ArcFace, the best subtracts the margin twice; norms end at 100, and angles at 0."""
    head = AdaFaceHead(2, 2, (1.0, 0.4, 0.0), scale=1.0).eval()
    head.weight.data = torch.eye(2)
    head.norm_mean.fill_(10.0)
    head.norm_std.fill_(2.0)
    theta, own = torch.tensor([math.pi / 3, 0.1]), torch.tensor([0, 0])
    unit = torch.stack([theta.cos(), theta.sin()], 1)
    torch.testing.assert_close(head.logits(0.1 * unit, own)[:, 0], torch.cos(theta + 0.4), rtol=0, atol=1e-5)
    best = torch.tensor([math.cos(math.pi / 3 - 0.4), 1.0]) - 0.8
    torch.testing.assert_close(head.logits(60 * unit, own)[:, 0], best, rtol=0, atol=1e-5)
    assert (head.norm_mean.item(), head.norm_std.item()) == (10, 2)  # in evaluation they stay
    head.train().logits(torch.tensor([[96.0], [1000.0]]) * unit, own)
    assert head.norm_mean.item() == pytest.approx(0.99 * 10 + 0.01 * 98)
    assert head.norm_std.item() == pytest.approx(0.99 * 2 + 0.01 * math.sqrt(8))


def test_adaface_does_not_teach_the_norm():
    """The quality is a constant to the gradient, which is therefore at right angles to the embedding."""
    embedding = torch.tensor([[3.0, 4.0, 5.0]], requires_grad=True)
    AdaFaceHead(4, 3, (1.0, 0.4, 0.0), scale=2.0).eval()(embedding, torch.tensor([1])).backward()
    assert embedding.grad.norm() > 1e-3 and abs((embedding * embedding.grad).sum().item()) < 1e-5


@pytest.mark.parametrize('kind', [MarginHead, AdaFaceHead, SoftmaxHead, CentreLoss])
def test_faces_of_unknown_identity_do_not_count(kind):
    torch.manual_seed(0)
    loss, embedding, labels = kind(3, 4).eval(), torch.randn(4, 4, requires_grad=True), torch.tensor([0, -1, 2, -1])
    found = loss(embedding, labels)
    torch.testing.assert_close(found, loss(embedding[[0, 2]], labels[[0, 2]]))
    found.backward()
    assert embedding.grad.any(1).tolist() == [True, False, True, False]
    assert loss(embedding, torch.full((4,), -1)).item() == 0


@pytest.mark.parametrize('margins', [(1.2, 0.4, 0.0), (1.0, 0.4, 0.1)])
def test_adaface_has_one_margin(margins):
    with pytest.raises(ValueError, match=r'AdaFace has one margin m.*write \(1, 0\.4, 0\)'):
        AdaFaceHead(2, 2, margins)


def test_softmax_and_centre():
    head = SoftmaxHead(3, 2)
    head.weight.data, head.bias.data = torch.randn(3, 2), torch.randn(3)  # those of an untrained one are nearly 0
    embedding, labels = torch.randn(4, 2), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(head(embedding, labels), F.cross_entropy(embedding @ head.weight.T + head.bias, labels))
    centre = CentreLoss(3, 2)
    expected = 0.5 * (embedding - centre.centres[labels]).square().sum(1).mean()
    torch.testing.assert_close(centre(embedding, labels), expected)


def test_embedding_and_relation():
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    b = torch.tensor([[1.0, 1.0], [0.0, 3.0]])
    assert embedding_loss(a, b).item() == pytest.approx((1 - math.sqrt(0.5)) / 2)
    assert relation_loss(a, b).item() == pytest.approx(0.5)  # cosines 0 and sqrt(1/2)
    assert embedding_loss(a, 5 * a).item() == pytest.approx(0, abs=1e-6)


def test_one_face_has_no_relations():
    with pytest.raises(ValueError, match='a batch of 1 has none; use batch_size=2 or more'):
        relation_loss(torch.ones(1, 2), torch.ones(1, 2))


def test_label_loss_by_hand():
    student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    p = 1 / (1 + math.exp(1.0))  # both at temperature 2
    q = 1 - p
    divergence = p * math.log(p / q) + q * math.log(q / p)  # teacher (p, q) against student (q, p)
    hard = -math.log(1 / (1 + math.exp(-2.0)))
    found = label_loss(student, teacher, torch.tensor([0]), temperature=2.0, hard=0.25)
    assert found.item() == pytest.approx(0.25 * hard + 0.75 * 4 * divergence, rel=1e-5)
    assert label_loss(student, student, torch.tensor([-1])).item() == pytest.approx(0, abs=1e-6)


def test_label_loss_is_a_mean_over_faces():
    """The soft term over all, the hard one over those whose identity is known."""
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([2, -1, 0])
    soft = [label_loss(student[[i]], teacher[[i]], labels[[i]], hard=0.0).item() for i in range(3)]
    assert label_loss(student, teacher, labels, hard=0.0).item() == pytest.approx(sum(soft) / 3, rel=1e-5)
    known = F.cross_entropy(student[[0, 2]], labels[[0, 2]]).item()
    assert label_loss(student, teacher, labels, hard=1.0).item() == pytest.approx(known, rel=1e-5)


def test_attention_is_a_mean_over_faces_and_a_sum_over_blocks():
    """Two faces and two blocks: maps of the channels that are 0, 1, 2 and 1 apart, equal ones of the places."""
    def channels(*rows) -> torch.Tensor:
        return torch.tensor(rows).view(2, 2, 1, 1)

    embedding, same = torch.zeros(2, 2), torch.ones(2, 1, 2, 2)
    mine, theirs = ((channels([1.0, 0.0], [1.0, 0.0]), channels([1.0, 0.0], [0.0, 1.0])),
                    (channels([1.0, 0.0], [0.0, 1.0]), channels([-1.0, 0.0], [1.0, 0.0])))
    one, two = (Seen(embedding, None, maps, (same, same), tuple(each.view(2, 1, 1, 2) for each in maps), maps, (same, same))
                for maps in (mine, theirs))
    assert attention_loss(one, two).item() == pytest.approx((0.5 + 1.5) / 2, rel=1e-5)
    assert askd_loss(one, two).item() == pytest.approx(0.5 + 1.5, rel=1e-5)
    # squared, one face of each block differs: (1, 0) and (0, 1)
    assert attention_transfer_loss(one, two).item() == pytest.approx(2 * math.sqrt(2) / 2, rel=1e-5)


def test_attention_losses_by_hand():
    embedding = torch.zeros(1, 2)
    one = Seen(embedding, None, (torch.tensor([1.0, 0.0]).view(1, 2, 1, 1),), (torch.ones(1, 1, 2, 2),),
               (torch.ones(1, 3, 2, 2),))
    two = Seen(embedding, None, (torch.tensor([1.0, 1.0]).view(1, 2, 1, 1),), (torch.ones(1, 1, 2, 2),),
               (torch.tensor([[2.0, 0.0], [0.0, 0.0]]).expand(1, 3, 2, 2),))
    assert attention_loss(one, two).item() == pytest.approx((1 - math.sqrt(0.5)) / 2, rel=1e-5)
    # (1/2, 1/2, 1/2, 1/2) against (1, 0, 0, 0)
    assert attention_transfer_loss(one, two).item() == pytest.approx(math.sqrt(0.25 + 3 * 0.25), rel=1e-5)


def test_askd_by_hand():
    """Before the sigmoid: opposite channel maps are 2 apart, spatial maps at right angles 1; nothing is halved."""
    channel, spatial = torch.tensor([1.0, -3.0]).view(1, 2, 1, 1), torch.tensor([[4.0, 0.0]]).view(1, 1, 1, 2)
    one = Seen(torch.zeros(1, 2), channel_scores=(channel,), spatial_scores=(spatial,))
    two = Seen(torch.zeros(1, 2), channel_scores=(-channel,), spatial_scores=(spatial.flip(3),))
    assert askd_loss(one, two).item() == pytest.approx(3.0) and askd_loss(one, one).item() == pytest.approx(0, abs=1e-6)
    after = [Seen(torch.zeros(1, 2), channel_maps=(torch.sigmoid(seen.channel_scores[0]),),
                  spatial_maps=(torch.sigmoid(seen.spatial_scores[0]),)) for seen in (one, two)]
    assert attention_loss(*after).item() < 0.5, 'maps after the sigmoid are all positive, so nearer to one another'


def test_a_recipe_may_name_every_loss():
    """Its list is written down beside it, so that a recipe is read without PyTorch."""
    assert set(DISTILL) == {*DISTILLATIONS, 'label'}


def test_unequal_networks_are_refused():
    x = Seen(torch.zeros(1, 4), None, (torch.ones(1, 2, 1, 1),), (torch.ones(1, 1, 2, 2),))
    with pytest.raises(ValueError, match='student has 1 blocks, the teacher 0'):
        attention_loss(x, Seen(torch.zeros(1, 4)))
    with pytest.raises(ValueError, match='channel_scores: the student has 0 blocks'):
        DISTILLATIONS['askd'](x, x)
    before = Seen(torch.zeros(1, 4), channel_scores=x.channel_maps, spatial_scores=x.spatial_maps)
    with pytest.raises(ValueError, match=r'channel_scores, block 0: the student has \(1, 2, 1, 1\), the teacher \(1, 3'):
        askd_loss(before, before._replace(channel_scores=(torch.ones(1, 3, 1, 1),)))
    with pytest.raises(ValueError, match=r'channel_maps, block 0: the student has \(1, 2, 1, 1\)'):
        attention_loss(x, Seen(torch.zeros(1, 4), None, (torch.ones(1, 3, 1, 1),), x.spatial_maps))
    with pytest.raises(ValueError, match='embeddings of 4 and 8'):
        DISTILLATIONS['embedding'](x, Seen(torch.zeros(1, 8)))


def test_degrade(crops):
    face = crops[0]
    assert degrade(face, 1, 1.0) is face
    error = [np.abs(degrade(face, factor, 0.5).astype(int) - face).mean() for factor in (2, 4, 8)]
    assert error[0] < error[1] < error[2]
    for variant in ('bicubic', 'askd'):
        assert degrade(face, 8, 1.0, variant).shape == face.shape
    with pytest.raises(FaceError, match='cannot be made 8 times smaller'):
        degrade(face[:3, :3], 8, 1.0)
    with pytest.raises(FaceError, match='a face of 5x5 pixels cannot be made 8 times smaller'):
        degrade(face[:5, :5], 8, 1.0)
    for factor, sigma, message in ((0, 1.0, 'factor=0'), (2.5, 1.0, 'factor=2.5'), (math.nan, 1.0, 'factor=nan'),
                                   (2, 0.0, 'sigma=0.0'), (2, math.nan, 'sigma=nan'), (2, math.inf, 'sigma=inf')):
        with pytest.raises(ValueError, match=f'{message}: must be'):
            degrade(face, factor, sigma)
    with pytest.raises(ValueError, match=r'degrade\.variant'):
        Degrade(variant='bilinear')
    with pytest.raises(ValueError, match=r'degrade\.factors'):
        Degrade(factors=())
    rng = np.random.default_rng(0)
    assert Degrade(p=0)(face, rng) is face


def test_misalignment_is_that_of_wrong_landmarks():
    """The similarity of landmarks with an error, written down without landmarks, has the same spread."""
    rng, points = np.random.default_rng(0), TEMPLATE.astype(float)
    centre = points.mean(0)
    dots = np.zeros((112, 112, 3), np.uint8)
    for x, y in ((30, 30), (80, 80)):
        cv2.circle(dots, (x, y), 8, (255, 255, 255), -1)

    def measure(image):  # scale, angle and place from the two dots
        _, _, _, found = cv2.connectedComponentsWithStats((image[:, :, 0] > 127).astype(np.uint8))
        (x0, y0), (x1, y1) = sorted(found[1:].tolist())
        return [np.hypot(x1 - x0, y1 - y0) / np.hypot(50, 50), np.arctan2(y1 - y0, x1 - x0) - np.pi / 4, (x0 + x1) / 2]

    def similarity():
        matrix = similarity_transform(points + rng.normal(0, 1.5, points.shape), points)
        shift = (matrix[:, :2] @ centre + matrix[:, 2] - centre)[0]
        return [np.hypot(*matrix[:, 0]), np.arctan2(matrix[1, 0], matrix[0, 0]), shift]

    drawn = np.array([measure(misalign(dots, 1.5, rng)) for _ in range(600)])
    wanted = np.array([similarity() for _ in range(600)])
    np.testing.assert_allclose(drawn[:, :2].std(0), wanted[:, :2].std(0), rtol=0.15)
    assert drawn[:, 2].std() == pytest.approx(np.hypot(wanted[:, 2].std(), 17 * wanted[:, 1].std()), rel=0.2)
    assert np.array_equal(misalign(dots, 0, rng), dots)


def test_misalignment_is_the_students_alone(crops):
    face = crops[0]
    first, again = (Degrade((1,), landmarks=1.5)(face, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, again) and not np.array_equal(first, face)
    with pytest.raises(ValueError, match=r'degrade\.landmarks=-1'):
        Degrade(landmarks=-1)


def test_askd_blurs_down_the_picture_only(crops):
    """A-SKD's code passes sigma=[0.1, 2.0] for the two axes; nothing is drawn."""
    line = np.zeros((32, 32, 3), np.uint8)
    line[:, 16:] = 255
    assert np.array_equal(degrade(line, 2, 1.0, 'askd'), line)  # an edge that stands up stays sharp
    assert len(np.unique(degrade(line.transpose(1, 0, 2).copy(), 2, 1.0, 'askd'))) > 2
    assert np.array_equal(degrade(crops[0], 4, 0.1, 'askd'), degrade(crops[0], 4, 2.0, 'askd'))


def test_adaface_looks_at_the_norms_once_a_step():
    head = AdaFaceHead(3, 4, (1.0, 0.4, 0.0)).train()
    loss, logits = head.loss_and_logits(torch.full((2, 4), 1.0), torch.tensor([0, 1]))
    assert head.norm_mean.item() == pytest.approx(20 + 0.01 * (2 - 20))
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.tensor([0, 1])))
