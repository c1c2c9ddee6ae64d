"""How trained weights come into the zoo: what is measured of them, and what is refused before."""

from __future__ import annotations

import numpy as np
import pytest

import zoo
from plugins.data.sources import open_faces
from plugins.faces import Faces
from plugins.files import sha256_file
from plugins.preprocess import FaceError
from recipes import bundle
from recipes.bundle import __main__ as recogniser
from recipes.bundle import detector, score
from recipes.bundle.detection import CONDITIONS
from tests.test_detector_training import SAMPLE, one_face
from tests.test_ijb import PatchEmbedder
from zoo.evaluate.detection import GroundTruth
from zoo.evaluate.embed import embed_faces
from zoo.hub import resolve
from zoo.model_card import CARDS, CardError, read_card
from zoo.weights import save_weights


@pytest.fixture
def run(small_net, tmp_path):
    """What a training of two epochs leaves that was stopped in the second."""
    save_weights(tmp_path / 'run/last.safetensors', small_net, 'fdfacenet', {'width': 0.25})
    (tmp_path / 'run/recipe.yaml').write_text('{num_epoch: 2, seed: 7, init: null}')
    (tmp_path / 'run/log.jsonl').write_text('{"step": 10, "epoch": 1.25, "margin": 9.0}\n{"step": 12, "six/accuracy": 0.9}\n')
    return tmp_path / 'run'


def test_weights_without_a_card_are_not_bundled(run, tmp_path, monkeypatch):
    """Said before anything is measured; nothing is put into the zoo."""
    monkeypatch.setattr(bundle, 'BUNDLED', tmp_path / 'zoo')
    save_weights(run / 'last.safetensors', zoo.create('fdfacenet', width=0.25), 'deep_face')
    with pytest.raises(CardError, match="unknown model 'deep_face'"):
        recogniser.main([str(run), '--licence', 'x', '--data', 'x', '--holdout', 'none'])
    assert not (tmp_path / 'zoo').exists()


def test_weights_of_a_run_get_an_entry(run, face_folder, face_bin, tmp_path, monkeypatch):
    """Twice: the file of the second ones takes the place of the first one's; what else the card has stays."""
    monkeypatch.setattr(recogniser, 'FARS', ('1e-1', '1e-2'))
    monkeypatch.setattr(bundle, 'BUNDLED', tmp_path / 'weights')
    monkeypatch.setattr(bundle, 'CARDS', tmp_path)
    (tmp_path / 'fdfacenet.yaml').write_text((CARDS / 'fdfacenet.yaml').read_text())
    before = zoo.card('fdfacenet')
    command = [str(run), '--tag', 'mine', '--licence', 'MIT', '--data', 'six', '--holdout', str(face_folder), '--set',
               f'six={face_bin}', '--limit', 'night']
    for factor in (1, 2):
        net = zoo.load(run / 'last.safetensors')
        net.head[-1].running_var *= factor ** 2  # half as long embeddings, in the same directions
        save_weights(run / 'last.safetensors', net, 'fdfacenet', {'width': 0.25})
        recogniser.main(command)
        made = read_card(tmp_path / 'fdfacenet.yaml')
        entry = made.weights['mine']
        file = tmp_path / 'weights' / entry.file
        assert [*file.parent.iterdir()] == [file] and sha256_file(file) == entry.sha256 == sha256_file(run / 'last.safetensors')
        assert (made.weights['default'], made.summary) == (before.weights['default'], before.summary)
        assert entry.recipe.startswith('run: 2 epochs (logged to 1.25), seed 7, last weights; bundled 2')
        assert (entry.licence, entry.data, [*entry.limits], entry.num_features) == ('MIT', 'six', ['night'], 64)
        assert [*entry.thresholds] == ['1e-1', '1e-2'] and [*entry.metrics] == ['holdout', 'six']
        assert zoo.create('fdfacenet', num_features=64, **entry.network_args).num_features == 64


def test_thresholds_of_a_card_keep_their_rate(face_folder, monkeypatch):
    """Over all pairs of different persons among the 48 faces, 960; the 168 of one person are the genuine ones."""
    monkeypatch.setattr(recogniser, 'FARS', ('1e-1', '1e-2'))
    thresholds, tar, conditions = recogniser.impostor_thresholds(PatchEmbedder(), str(face_folder))
    embeddings, _ = embed_faces(PatchEmbedder(), open_faces(face_folder))
    scores, person = embeddings @ embeddings.T, np.repeat(np.arange(6), 8)
    impostors = np.sort(scores[(person[:, None] < person)])[::-1]
    genuine = scores[(person[:, None] == person) & np.triu(np.ones((48, 48), bool), 1)]
    for far, accepted in (('1e-1', 96), ('1e-2', 9)):
        assert 0 <= thresholds[far] - impostors[accepted] <= 1e-4  # the highest one that is refused, rounded up
        assert tar[far] == round((genuine > thresholds[far]).mean(), 4)
    assert conditions.startswith('960 impostor and 168 genuine pairs of 6 identities')


def test_held_out_faces_that_can_tell_no_threshold(face_folder, face_bin):
    """Faces of nobody known counted as one person, and the highest score of any few pairs was the threshold at FAR 1e-5."""
    with pytest.raises(FaceError, match=r'six\.bin: \d+ of \d+ faces are of unknown identity.*--holdout'):
        recogniser.impostor_thresholds(PatchEmbedder(), str(face_bin))
    with pytest.raises(FaceError, match=r'960 impostor and 168 genuine pairs; thresholds down to FAR 1e-5 need at least'):
        recogniser.impostor_thresholds(PatchEmbedder(), str(face_folder))


def test_a_score_of_half_the_pictures_that_cannot_be_chosen_changes_no_card(tmp_path, monkeypatch):
    """One false alarm in 50 pictures is few enough, in the 25 of a half it is not."""
    monkeypatch.setattr(bundle, 'CARDS', tmp_path)
    card = tmp_path / 'retinaface_mnet025.yaml'
    card.write_text(before := (CARDS / card.name).read_text())
    truth = dict.fromkeys(CONDITIONS, [GroundTruth(one_face(), np.ones(1, bool))] * 50)
    false = Faces.join([one_face(), Faces.from_rows([[200, 200, 240, 240, *SAMPLE.ravel(), 1.0]])])
    found = {(net, name): [false] + [one_face()] * 49 for net in ('student', 'teacher') for name in CONDITIONS}
    monkeypatch.setattr(score, 'observe', lambda *args: (found, truth))
    teacher = str(resolve(zoo.card('retinaface_mnet025').weights['default']))
    with pytest.raises(ValueError, match='false alarms a picture'):
        score.main(['retinaface_mnet025', '--teacher', teacher, '--pictures', 'none', '--out', str(tmp_path / 'score.json')])
    assert card.read_text() == before and not (tmp_path / 'score.json').exists()


def test_a_detector_is_not_bundled_without_its_terms(tmp_path, capsys):
    for given in ((), ('--licence', 'MIT'), ('--data', 'mine')):
        with pytest.raises(SystemExit):
            detector.main([str(tmp_path), '--teacher', 'none', '--pictures', 'none', *given])
        assert 'give --licence and --data, or --measure-only' in ' '.join(capsys.readouterr().err.split())
