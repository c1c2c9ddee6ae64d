"""WIDER FACE, FDDB and label files: written in the real formats, read, and measured on a real picture with a real detector."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys

import cv2
import numpy as np
import pytest

from plugins.faces import Faces
from plugins.preprocess import FaceError, encode_image
from tests.conftest import ROOT
from zoo.cli import main
from zoo.evaluate.detection import evaluate_detections, overlaps
from zoo.evaluate.detection_run import Detections, detect_pictures, summarise
from zoo.evaluate.detection_sets import open_detection_set
from zoo.evaluate.fddb import discrete_roc, ellipse_boxes, hit_rate, region_overlaps
from zoo.pipeline.sample import sample_landmarks

EVENT = '0--Parade'
ATTRIBUTES = '0 0 0 0 0 0 '  # blur expression illumination invalid occlusion pose, and the blank at the end of real lines
INVALID = '2 0 0 1 2 0 '


def found(*rows) -> Faces:
    """Detections: rows of x1, y1, x2, y2, score."""
    return Faces.from_rows([[*row[:4], *np.zeros(10), row[4]] for row in rows])


@pytest.fixture(scope='module')
def boxes() -> np.ndarray:
    """Boxes of the six faces of the group photo from its known landmarks, x, y, width, height, whole pixels."""
    points = sample_landmarks()
    middle, eyes = points.mean(1), points[:, :2].mean(1)
    height = 3.2 * np.linalg.norm(points[:, 3:].mean(1) - eyes, axis=1)
    return np.rint(np.stack([middle[:, 0] - 0.4 * height, middle[:, 1] - 0.5 * height, 0.8 * height, height], 1)).astype(int)


@pytest.fixture(scope='module')
def pictures(picture, tmp_path_factory):
    """Folder of a set: the group photo, one that says in its EXIF tag that it lies on its side, and one without faces."""
    from PIL import Image
    folder = tmp_path_factory.mktemp('images')
    (folder / EVENT).mkdir()
    (folder / EVENT / 'plain.jpg').write_bytes(encode_image(picture))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(folder / EVENT / 'turned.jpg', quality=95, exif=exif)
    (folder / EVENT / 'empty.jpg').write_bytes(encode_image(np.zeros((60, 80, 3), np.uint8)))
    return folder


def wider_list(boxes) -> str:
    """The last face of the second picture is flagged invalid."""
    rows = [' '.join(map(str, box)) for box in boxes.tolist()]
    lines = [f'{EVENT}/plain.jpg', '6', *(f'{row} {ATTRIBUTES}' for row in rows), f'{EVENT}/empty.jpg', '0',
             '0 0 0 0 0 0 0 0 0 0 ', f'{EVENT}/turned.jpg', '6', *(f'{row} {ATTRIBUTES}' for row in rows[:5]),
             f'{rows[5]} {INVALID}']
    return '\n'.join(lines) + '\n'


def cells(*rows) -> np.ndarray:
    """A cell array (n, 1) as MATLAB has it."""
    made = np.empty((len(rows), 1), object)
    made[:, 0] = rows
    return made


def write_wider_mat(folder, pictures: dict[str, np.ndarray], subsets: dict[str, dict[str, list[int]]]) -> None:
    """The four files of the official evaluation, cell by cell as the originals are built."""
    savemat = pytest.importorskip('scipy.io').savemat
    events = sorted({name.split('/')[0] for name in pictures})
    by_event = {event: [name for name in pictures if name.startswith(f'{event}/')] for event in events}

    def lists(entry) -> np.ndarray:
        return cells(*(cells(*(entry(name) for name in by_event[event])) for event in events))

    base = {'event_list': cells(*events), 'file_list': lists(lambda name: name.split('/')[1].removesuffix('.jpg')),
            'face_bbx_list': lists(lambda name: pictures[name])}
    savemat(folder / 'wider_face_val.mat', base)
    for subset, numbers in subsets.items():
        listed = lists(lambda name, numbers=numbers: np.array(numbers[name], np.uint8).reshape(-1, 1))
        savemat(folder / f'wider_{subset}_val.mat', {**base, 'gt_list': listed})


# WIDER FACE

def test_wider_list_on_a_real_picture(pictures, boxes, detector_file, tmp_path, capsys):
    truth = tmp_path / 'wider_face_val_bbx_gt.txt'
    truth.write_text(wider_list(boxes))
    assert main(['eval-detector', str(detector_file), '--truth', str(truth), '--pictures', str(pictures), '--threads', '1',
                 '--json']) == 0
    report = json.loads(capsys.readouterr().out)
    result = report['subsets']['valid']
    assert (result['pictures'], result['faces'], report['pictures']) == (3, 11, 3)
    assert result['recall'] == 1 and result['ap'] == pytest.approx(1, abs=2e-3)  # every face above the first false alarm
    assert result['landmark_error'] is None and 'original size' in report['conditions'] and report['score'] > 0.5
    smaller = ['eval-detector', str(detector_file), '--truth', str(truth), '--pictures', str(pictures), '--threads', '1',
               '--size', '640']
    assert main([*smaller, '--json']) == 0
    other = json.loads(capsys.readouterr().out)['subsets']['valid']
    assert other['recall'] == other['precision'] == 1 and result['precision'] < 1  # at twice the size a false alarm of its own
    # moved away by half a face, the same boxes are not found: the figures depend on the annotations
    truth.write_text(wider_list(boxes + np.array([60, 60, 0, 0])))
    assert main(smaller) == 0
    out = capsys.readouterr().out
    assert 'longest side at most 640 pixels' in out and 'valid' in out
    assert float(out.splitlines()[-1].split()[2]) < 5


def test_needs_no_torch(pictures, boxes, detector_file, tmp_path):
    """On a board there is none."""
    (tmp_path / 'wider_face_val_bbx_gt.txt').write_text(wider_list(boxes))
    code = 'import sys; sys.modules["torch"] = None; from zoo.cli import main; sys.exit(main(sys.argv[1:]))'
    command = ['eval-detector', str(detector_file), '--truth', str(tmp_path), '--pictures', str(pictures), '--size', '320',
               '--json']
    done = subprocess.run([sys.executable, '-c', code, *command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)['subsets']['valid']['ap'] > 0.9


def test_wider_list_fields(boxes, tmp_path):
    (tmp_path / 'wider_face_val_bbx_gt.txt').write_text(wider_list(boxes).replace(f'{boxes[0, 2]} {boxes[0, 3]}', '0 9', 1))
    data = open_detection_set(tmp_path)
    assert list(data.faces) == [f'{EVENT}/plain.jpg', f'{EVENT}/empty.jpg', f'{EVENT}/turned.jpg']
    assert data.faces[f'{EVENT}/turned.jpg'].boxes[0].tolist() == [*boxes[0, :2], *(boxes[0, :2] + boxes[0, 2:])]
    assert np.isnan(data.faces[f'{EVENT}/plain.jpg'].landmarks).all() and len(data.faces[f'{EVENT}/empty.jpg']) == 0
    counts = data.subsets['valid']
    assert counts[f'{EVENT}/plain.jpg'].tolist() == [False] + 5 * [True]  # a face without width does not count
    assert counts[f'{EVENT}/turned.jpg'].tolist() == 5 * [True] + [False]


def test_official_subsets_by_hand(tmp_path):
    """Two events. In the easy subset a large face counts, in the hard one a small face too; the zero row of a picture without
    faces is in none."""
    pictures = {'0--Parade/a.jpg': np.array([[0, 0, 40, 40], [100, 0, 10, 10]], np.uint16),
                '0--Parade/none.jpg': np.zeros((1, 4), np.uint16), '61--Street_Battle/b.jpg': np.array([[50, 50, 40, 40]])}
    large = {'0--Parade/a.jpg': [1], '0--Parade/none.jpg': [], '61--Street_Battle/b.jpg': [1]}
    write_wider_mat(tmp_path, pictures, {'easy': large, 'medium': large, 'hard': {**large, '0--Parade/a.jpg': [1, 2]}})
    data = open_detection_set(tmp_path)
    assert {s: sum(int(mask.sum()) for mask in masks.values()) for s, masks in data.subsets.items()} == {
        'easy': 2, 'medium': 2, 'hard': 3}
    detections = Detections({'0--Parade/a.jpg': found((0, 0, 40, 40, 1.0), (100, 0, 110, 10, 0.8)),
                             '0--Parade/none.jpg': found((10, 10, 30, 30, 0.6)),
                             '61--Street_Battle/b.jpg': found((52, 52, 92, 92, 0.2))}, {})
    subsets = summarise(data, detections, 0.5)['subsets']
    # easy: hit, (ignored), false alarm, hit: precision 1 up to recall 1/2, then 2/3. Hard: hit, hit, false alarm, hit
    assert subsets['easy']['ap'] == subsets['medium']['ap'] == pytest.approx((1 + 2 / 3) / 2)
    assert subsets['hard']['ap'] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert subsets['easy']['recall'] == 0.5 and subsets['hard']['recall'] == pytest.approx(2 / 3)


def test_a_part_of_a_set_is_measured_on_the_scores_of_the_whole(tmp_path):
    """The 1000 thresholds lie between the lowest and highest score of the whole set, also for a fold."""
    from zoo.evaluate.detection import GroundTruth
    truth = [GroundTruth(found((0, 0, 40, 40, 1.0), (100, 0, 140, 40, 1.0)), np.ones(2, bool))]
    near = [found((0, 0, 40, 40, 0.4997), (200, 200, 240, 240, 0.4996), (100, 0, 140, 40, 0.4995))]
    assert evaluate_detections(near, truth).ap == pytest.approx((1 + 2 / 3) / 2)
    assert evaluate_detections(near, truth, spread=(0.0, 1.0)).ap == pytest.approx(2 / 3)  # all three in one step


@pytest.mark.parametrize(('change', 'message'), [
    (lambda text: text.replace('\n6', '\n7', 1), "line 9: expected a face of .*found '0--Parade/empty.jpg'"),
    (lambda text: text.replace('\n6', '\n5', 1), 'expected the number of faces'),
    (lambda text: text.replace('\n6', '\nsix', 1), "line 2: expected the number of faces of .* found 'six'"),
    (lambda text: '\n'.join(text.splitlines()[:5]), 'line 6: expected a face of .*found the end of the file'),
    (lambda text: '\n'.join(text.splitlines()[:1]), 'line 2: expected the number of faces of .* found the end of the file'),
    (lambda text: text.replace(ATTRIBUTES, ''), 'line 3: .*x y width height blur expression illumination invalid'),
    (lambda text: text.replace('turned', 'plain'), "'0--Parade/plain.jpg' is listed twice"),
])
def test_damaged_wider_lists(boxes, tmp_path, change, message):
    (tmp_path / 'wider_face_val_bbx_gt.txt').write_text(change(wider_list(boxes)))
    with pytest.raises(FaceError, match=message):
        open_detection_set(tmp_path)


@pytest.mark.parametrize('name', ['wider_face_val_bbx_gt.txt', 'FDDB-fold-01-ellipseList.txt', 'label.txt'])
def test_whatever_is_in_a_file_the_message_names_it(boxes, tmp_path, name):
    texts = {'label.txt': '# a.jpg\n1 2 3 4\n', 'FDDB-fold-01-ellipseList.txt': fold('50 30 1.5 100 100  1\n')}
    path, rng, refused = tmp_path / name, np.random.default_rng(0), 0
    whole = texts.get(name, wider_list(boxes)).encode()
    for _ in range(100):
        damaged = np.frombuffer(whole, np.uint8)[:rng.integers(len(whole) + 1)].copy()
        damaged[rng.integers(len(damaged), size=min(len(damaged), 3))] = rng.integers(256) if len(damaged) else 0
        path.write_bytes(damaged.tobytes())
        try:
            open_detection_set(path)
        except FaceError as error:
            refused += 1
            assert str(tmp_path) in str(error)
    assert refused > 20


def test_damaged_wider_mats(tmp_path):
    pictures, numbers = {'e/a.jpg': np.array([[0, 0, 40, 40]])}, {'e/a.jpg': [1]}
    write_wider_mat(tmp_path, pictures, dict.fromkeys(('easy', 'medium'), numbers))
    with pytest.raises(FaceError, match=r'wider_hard_val.mat: missing.*eval_tools/ground_truth'):
        open_detection_set(tmp_path)
    write_wider_mat(tmp_path, pictures, {'easy': numbers, 'medium': numbers, 'hard': {'e/a.jpg': [2]}})
    with pytest.raises(FaceError, match=r'wider_hard_val.mat: e/a.jpg: face 2 of 1'):
        open_detection_set(tmp_path)
    write_wider_mat(tmp_path, {'e/b.jpg': pictures['e/a.jpg']}, {'hard': {'e/b.jpg': [1]}})
    with pytest.raises(FaceError, match='its pictures are not those'):
        open_detection_set(tmp_path)
    main_file = tmp_path / 'wider_face_val.mat'
    main_file.write_bytes(main_file.read_bytes()[:200])
    with pytest.raises(FaceError, match=r'wider_face_val.mat: not a MATLAB file|not a WIDER FACE file'):
        open_detection_set(tmp_path)
    write_wider_mat(tmp_path, {'e/a.jpg': np.zeros((1, 3))}, {})
    with pytest.raises(FaceError, match=r'boxes of shape \(1, 3\)'):
        open_detection_set(main_file)


# FDDB

def fold(*ellipses: str) -> str:
    return ''.join(f'2002/08/11/big/img_{i}\n{len(e.splitlines())}\n{e}' for i, e in enumerate(ellipses))


def test_box_of_an_ellipse():
    upright, flat, slanted = ellipse_boxes(np.array([[50, 30, np.pi / 2, 100, 100], [50, 30, 0, 0, 0],
                                                     [50, 30, -np.pi / 4, 0, 0]]))
    assert upright.tolist() == pytest.approx([70, 50, 130, 150])
    assert flat.tolist() == pytest.approx([-50, -30, 50, 30])
    side = math.sqrt((50 ** 2 + 30 ** 2) / 2)
    assert slanted.tolist() == pytest.approx([-side, -side, side, side])
    drawn = np.zeros((300, 300), np.uint8)
    cv2.ellipse(drawn, (150, 140), (80, 50), np.degrees(1.2), 0, 360, 1, -1)
    x, y, width, height = cv2.boundingRect(drawn)
    box = ellipse_boxes(np.array([[80, 50, 1.2, 150, 140]]))
    assert box[0].tolist() == pytest.approx([x, y, x + width, y + height], abs=1.5)


def test_fddb_on_a_real_picture(picture, boxes, detector_file, tmp_path, capsys):
    """Ellipses around the six faces, in two folds; the picture of the second fold has one face less annotated."""
    x, y, width, height = boxes.T
    rows = [f'{h / 2:.6f} {w / 2:.6f} {1.570796:.6f} {left + w / 2:.6f} {top + h / 2:.6f}  1\n'
            for left, top, w, h in zip(x, y, width, height, strict=True)]
    folds = tmp_path / 'FDDB-folds'
    folds.mkdir()
    for number, count in ((1, 6), (2, 5)):
        name = f'2002/08/{number}/big/img_1'
        (folds / f'FDDB-fold-{number:02d}-ellipseList.txt').write_text(f'{name}\n{count}\n{"".join(rows[:count])}')
        (folds / f'FDDB-fold-{number:02d}.txt').write_text(f'{name}\n')
        path = tmp_path / 'originalPics' / f'{name}.jpg'
        path.parent.mkdir(parents=True)
        path.write_bytes(encode_image(picture))
    command = ['eval-detector', str(detector_file), '--truth', str(folds), '--pictures', str(tmp_path / 'originalPics'),
               '--threads', '1', '--size', '640']
    assert main([*command, '--json']) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report['subsets']) == {'all', 'FDDB-fold-01', 'FDDB-fold-02'} and report['subsets']['all']['faces'] == 11
    assert report['subsets']['FDDB-fold-01']['ap'] == pytest.approx(1, abs=2e-3)
    second = report['subsets']['FDDB-fold-02']
    assert second['false_alarms'] == 1 and second['recall'] == 1
    assert report['mean_ap_of_folds'] == pytest.approx((report['subsets']['FDDB-fold-01']['ap'] + second['ap']) / 2)
    assert report['discrete_roc']['1000'] == 1  # an upright ellipse fills pi / 4 of its box
    assert main(command) == 0
    assert '100.00 % of the faces at 1000 false alarms' in capsys.readouterr().out


def drawn_overlap(box: np.ndarray, ellipse: np.ndarray, shape: tuple[int, int]) -> float:
    """As the official program does it: both regions drawn on whole masks, pixels counted."""
    a, b = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    major, minor, angle, x, y = ellipse
    cv2.ellipse(a, (round(x), round(y)), (int(major), int(minor)), np.degrees(angle), 0, 360, 1, -1)
    corners = [round(float(v)) for v in box]
    cv2.rectangle(b, tuple(corners[:2]), tuple(corners[2:]), 1, -1)
    return (a & b).sum() / max((a | b).sum(), 1)


def crowd(seed: int) -> tuple[list[Faces], list[np.ndarray], list[tuple[int, int]]]:
    """Pictures with faces near and over the border, near misses, second detections, false alarms, and equal scores."""
    rng = np.random.default_rng(seed)
    pictures = []
    for faces in (0, 1, 2, 4):
        shape = (int(rng.integers(80, 140)), int(rng.integers(80, 140)))
        ellipses = np.stack([rng.uniform(20, 40, faces), rng.uniform(12, 20, faces), rng.uniform(-1.6, 1.6, faces),
                             rng.uniform(0, shape[1], faces), rng.uniform(0, shape[0], faces)], 1)
        truth = ellipse_boxes(ellipses)
        near = [truth + rng.normal(0, 5, truth.shape) for _ in range(2)]
        far = rng.uniform(0, 60, (2, 4)).cumsum(1)[:, [0, 1, 2, 3]]
        found_boxes = np.concatenate([*near, far])
        order = found_boxes.reshape(-1, 2, 2)
        found_boxes = np.concatenate([order.min(1), order.max(1) + 4], 1)
        pictures.append((found(*(np.append(b, rng.integers(1, 12) / 12) for b in found_boxes)), ellipses, shape))
    return tuple(map(list, zip(*pictures, strict=True)))


def test_regions_are_those_that_are_drawn():
    values = []
    for faces, ellipses, shape in zip(*crowd(0), strict=True):
        table = region_overlaps(faces.boxes, ellipses, shape)
        for (i, box), (j, ellipse) in itertools.product(enumerate(faces.boxes), enumerate(ellipses)):
            assert table[i, j] == pytest.approx(drawn_overlap(box, ellipse, shape), abs=1e-12)
            values.append(table[i, j])
    assert min(values) == 0 and max(values) > 0.5


@pytest.mark.parametrize('seed', range(3))
def test_discrete_roc_is_that_of_all_matchings(seed):
    """Every threshold anew, the best of all one-to-one matchings by trying them all."""
    pytest.importorskip('scipy')
    faces, ellipses, shapes = crowd(seed)
    expected = []
    for threshold in sorted({float(s) for f in faces for s in f.scores}, reverse=True):
        hits = alarms = 0
        for f, e, shape in zip(faces, ellipses, shapes, strict=True):
            kept = f.boxes[f.scores >= np.float32(threshold)]
            table = np.array([[drawn_overlap(box, ellipse, shape) for ellipse in e] for box in kept]).reshape(len(kept), len(e))
            small = table if len(kept) <= len(e) else table.T
            best = max(itertools.permutations(range(small.shape[1]), len(small)),
                       key=lambda columns: sum(small[row, column] for row, column in enumerate(columns)))
            matched = sum(small[row, column] > 0.5 for row, column in enumerate(best))
            hits, alarms = hits + matched, alarms + len(kept) - matched
        expected.append([hits, alarms])
    roc = discrete_roc(faces, ellipses, shapes)
    assert roc.tolist() == expected and roc[-1, 0] > 2
    assert hit_rate(roc, 7, 10 ** 6) == max(h for h, _ in expected) / 7
    assert hit_rate(roc, 7, 1) == max((h for h, a in expected if a <= 1), default=0) / 7


def test_second_detection_and_half_overlap_by_hand():
    """One face, an upright ellipse of 40 x 20 pixels: its box hits, the same box again and one shifted by its width do not."""
    pytest.importorskip('scipy')
    ellipse = np.array([[20.0, 10.0, np.pi / 2, 50.0, 50.0]])
    faces = found((40, 30, 60, 70, 0.9), (40, 30, 60, 70, 0.8), (60, 30, 80, 70, 0.7))
    assert discrete_roc([faces], [ellipse], [(100, 100)]).tolist() == [[1, 0], [1, 1], [1, 2]]
    nothing = discrete_roc([found()], [ellipse], [(100, 100)])
    assert nothing.shape == (0, 2) and hit_rate(nothing, 1, 1000) == 0


def test_damaged_folds(tmp_path):
    path = tmp_path / 'FDDB-fold-01-ellipseList.txt'
    path.write_text(fold('50 30 1.5 100 100  1\n', '50 30 1.5 100\n'))
    with pytest.raises(FaceError, match=r"line 6: expected a face of '2002/08/11/big/img_1' \(major.*found '50 30 1.5 100'"):
        open_detection_set(path)
    path.write_text(fold('50 30 nan 100 100  1\n'))
    with pytest.raises(FaceError, match='line 3'):
        open_detection_set(path)


# label files, and what all have in common

def test_label_file_with_landmarks(pictures, detector_file, tmp_path, capsys):
    points = sample_landmarks()
    rows = []
    for p in points:
        height = 3.2 * np.linalg.norm(p[3:].mean(0) - p[:2].mean(0))
        left, top = p.mean(0) - (0.4 * height, 0.5 * height)
        rows.append(' '.join([f'{left:.0f} {top:.0f} {0.8 * height:.0f} {height:.0f}', *(f'{x} {y} 0.0' for x, y in p.tolist()),
                              '0.9']))
    rows.append('120 80 0 9')  # no detector finds what has no size
    (tmp_path / 'label.txt').write_text('\n'.join([f'# {EVENT}/plain.jpg', *rows, f'# {EVENT}/empty.jpg']) + '\n')
    assert main(['eval-detector', str(detector_file), '--truth', str(tmp_path / 'label.txt'), '--pictures', str(pictures),
                 '--threads', '1', '--json']) == 0
    result = json.loads(capsys.readouterr().out)['subsets']['all']
    assert result['faces'] == 6 and result['recall'] == 1 and 0 < result['landmark_error'] < 0.2


def test_what_is_not_there(pictures, tmp_path, detector_file, capsys):
    with pytest.raises(FileNotFoundError, match='no such file'):
        open_detection_set(tmp_path / 'nowhere')
    with pytest.raises(FaceError, match='no annotations that facezoo reads'):
        open_detection_set(tmp_path)
    for name in ('wider_face_train_bbx_gt.txt', 'wider_face_val_bbx_gt.txt'):
        (tmp_path / name).write_text(f'{EVENT}/elsewhere.jpg\n1\n0 0 9 9 {ATTRIBUTES}\n')
    with pytest.raises(FaceError, match=r'train_bbx_gt.txt, wider_face_val_bbx_gt.txt; name one'):
        open_detection_set(tmp_path)
    assert main(['eval-detector', str(detector_file), '--truth', str(tmp_path / name), '--pictures', str(pictures)]) == 1
    error = capsys.readouterr().err
    assert "1 of 1 annotated pictures are not there, the first is '0--Parade/elsewhere.jpg'; name the folder" in error
    (tmp_path / 'label.txt').write_text('# a.jpg\n')
    with pytest.raises(FaceError, match="no face counts in the subset 'all'"):
        open_detection_set(tmp_path / 'label.txt')


def test_a_damaged_picture_is_named(boxes, picture, tmp_path):
    (tmp_path / EVENT).mkdir()
    (tmp_path / EVENT / 'cut.jpg').write_bytes(encode_image(picture)[:50_000])
    truth = tmp_path / 'wider_face_val_bbx_gt.txt'
    truth.write_text(f'{EVENT}/cut.jpg\n1\n0 0 9 9 {ATTRIBUTES}\n')
    with pytest.raises(FaceError, match=r'cut.jpg'):
        detect_pictures(lambda _: found(), open_detection_set(truth), tmp_path)


def test_boxes_of_the_photo_are_the_faces(boxes, detector_file, picture):
    """The annotations of these tests, made from landmarks, are independent of the detector and near to what it finds."""
    from zoo.runtime.detector import open_detector
    faces = open_detector(detector_file, threads=1)(picture)
    table = overlaps(faces.boxes, np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
    assert table.max(0).min() > 0.5
