"""The commands that a user runs on pictures and videos, with the bundled models as ONNX files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from tests.conftest import ROOT, encode
from zoo.cli import main
from zoo.pipeline.video import VideoSource


@pytest.fixture(scope='module')
def nets(detector_file, recogniser_file) -> list[str]:
    return ['--model', str(recogniser_file), '--detector', str(detector_file), '--threads', '1']


@pytest.fixture(scope='module')
def models(nets) -> list[str]:
    return [*nets, '--threshold', '0.5']


@pytest.fixture(scope='module')
def made(models, detector_file, picture, tmp_path_factory):
    """A gallery of two persons of the group photo, made by the command."""
    from zoo.runtime.detector import open_detector
    root = tmp_path_factory.mktemp('made')
    found = open_detector(detector_file, threads=1)(picture)
    for number, box in enumerate(sorted(found.boxes.tolist())[:2]):
        left, top, right, bottom = (int(v) for v in box)
        path = root / 'people' / f'Person {number}' / 'a.png'
        path.parent.mkdir(parents=True)
        path.write_bytes(encode(picture[max(0, top - 50):bottom + 50, max(0, left - 40):right + 40], '.png'))
    assert main(['enrol', str(root / 'gallery.npz'), str(root / 'people'), *models]) == 0
    return root


def test_nothing_is_passed_over_in_silence(made, models, nets, capsys, tmp_path):
    people = tmp_path / 'people'
    people.mkdir()
    (people / 'Linked').symlink_to(made / 'people' / 'Person 1')
    (people / 'Nobody').mkdir()
    for name in ('loose.png', 'Phone/1.HEIC', 'Phone/2.HEIC', 'Phone/3.HEIC', 'Phone/4.HEIC'):
        (people / name).parent.mkdir(exist_ok=True)
        (people / name).touch()
    assert main(['enrol', str(tmp_path / 'g.npz'), str(people), '--list', *models]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == 'Linked: 1'
    assert [line.replace(f'{people}/', '') for line in said.err.splitlines() if line.startswith('passed over')] == [
        'passed over, empty folders (1): Nobody',
        'passed over, HEIC, to be converted to JPEG first (4): Phone/1.HEIC, Phone/2.HEIC, Phone/3.HEIC, ...',
        "passed over, in nobody's folder (1): loose.png"]
    assert main(['recognise', str(people), *nets]) == 1  # loose.png is no picture
    assert 'Phone/1.HEIC' in capsys.readouterr().err


def test_enrol_lists_and_removes(made, models, capsys, tmp_path):
    copy = tmp_path / 'g.npz'
    copy.write_bytes((made / 'gallery.npz').read_bytes())
    assert main(['enrol', str(copy), '--remove', 'Person 1', '--list', *models]) == 0
    assert capsys.readouterr().out.splitlines() == ['Person 1: removed, pictures: 1', 'Person 0: 1']
    assert main(['enrol', str(copy), '--remove', 'Person 1', *models]) == 1
    assert main(['enrol', str(copy)]) == 1


def test_a_database_in_place_of_a_file(made, models, picture, capsys, tmp_path):
    pytest.importorskip('qdrant_client', reason="needs qdrant-client: pip install 'facezoo[qdrant]'")
    address, photo = f'qdrant:{tmp_path}/base/people', tmp_path / 'group.png'
    photo.write_bytes(encode(picture, '.png'))
    assert main(['enrol', address, str(made / 'people'), *models]) == 0
    answers = []
    for gallery in (address, str(made / 'gallery.npz')):
        capsys.readouterr()
        assert main(['recognise', str(photo), '--gallery', gallery, '--json', *models]) == 0
        answers.append([face['name'] for face in json.loads(capsys.readouterr().out)['faces']])
    assert answers[0] == answers[1] and {'Person 0', 'Person 1'} < set(answers[0])
    assert main(['recognise', str(photo), '--gallery', address, '--no-flip', *models]) == 1
    assert 'True there and False here (--no-flip)' in capsys.readouterr().err
    assert main(['enrol', address, '--remove', 'Person 0', '--list']) == 0
    assert capsys.readouterr().out.splitlines() == ['Person 0: removed, pictures: 1', 'Person 1: 1']


def test_recognise_draws_names_and_goes_on(made, models, picture, capsys, tmp_path):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'group.jpg').write_bytes(encode(picture))
    (tmp_path / 'in' / 'bad.jpg').write_bytes(b'nothing')
    status = main(['recognise', str(tmp_path / 'in'), '--gallery', str(made / 'gallery.npz'), '--out', str(tmp_path / 'out'),
                   '--json', *models])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert status == 1 and 'bad.jpg' in lines[0]['error']
    assert sorted(str(f['name']) for f in lines[1]['faces']) == ['None'] * 4 + ['Person 0', 'Person 1']
    drawn = cv2.imread(str(tmp_path / 'out' / 'group.jpg'))
    assert drawn.shape == picture.shape and (tmp_path / 'out' / 'contact_sheet.jpg').is_file()


def test_strangers_are_unknown_to_an_empty_gallery_too(made, models, nets, picture, capsys, tmp_path):
    gallery, photo = tmp_path / 'g.npz', tmp_path / 'group.png'
    gallery.write_bytes((made / 'gallery.npz').read_bytes())
    photo.write_bytes(encode(picture, '.png'))
    assert main(['enrol', str(gallery), '--remove', 'Person 0', '--remove', 'Person 1']) == 0
    capsys.readouterr()
    for options, who in ((['--gallery', str(gallery), *models], 'unknown'), (nets, 'face')):
        assert main(['recognise', str(photo), *options]) == 0
        assert f'6 faces ({", ".join([who] * 6)})' in capsys.readouterr().out
        assert main(['recognise', str(photo), '--json', *options]) == 0
        assert [face['name'] for face in json.loads(capsys.readouterr().out)['faces']] == [None] * 6
    assert main(['recognise', str(photo), *models]) == 1
    assert 'name the --gallery, too' in capsys.readouterr().err


def test_recognise_overwrites_nothing(nets, capsys, tmp_path):
    album = tmp_path / 'album'
    for number, name in enumerate(('2023/1.jpg', '2024/1.jpg', 'a.jpg', 'a.jpeg', 'b.png')):
        (album / name).parent.mkdir(parents=True, exist_ok=True)
        (album / name).write_bytes(encode(np.full((60, 80 + number, 3), 99, np.uint8), (album / name).suffix))
    (album / 'contact_sheet.png').write_bytes(encode(np.full((60, 80, 3), 9, np.uint8), '.png'))
    before = {path: path.read_bytes() for path in album.rglob('*.*')}

    def refused(*names: str, out: str) -> str:
        assert main(['recognise', *(str(album / name) for name in names), '--out', str(tmp_path / out), *nets]) == 1
        assert {path: path.read_bytes() for path in album.rglob('*.*')} == before and not (tmp_path / 'new').exists()
        return capsys.readouterr().err
    assert 'a.jpg is there already' in refused('a.jpg', 'b.png', out='album')
    assert 'album/2023/1.jpg is there already' in refused('.', out='album')
    assert 'new/1.jpg' in refused('2023', '2024', out='new')
    assert 'new/contact_sheet.jpg' in refused('.', out='new')
    (album / 'contact_sheet.png').unlink()
    assert main(['recognise', str(album), '--out', str(tmp_path / 'new'), *nets]) == 0
    new = tmp_path / 'new'
    assert {str(path.relative_to(new)): cv2.imread(str(path)).shape[1] for path in new.rglob('*.*')} == {
        '2023/1.jpg': 80, '2024/1.jpg': 81, 'a.jpg.jpg': 82, 'a.jpeg.jpg': 83, 'b.jpg': 84, 'contact_sheet.jpg': 960}


def test_contact_sheets_have_room(nets, tmp_path, monkeypatch):
    monkeypatch.setattr('zoo.commands.recognise._SHEET', 2)
    for count, sheets in ((1, []), (2, ['contact_sheet.jpg']), (5, [f'contact_sheet_{i}.jpg' for i in (1, 2, 3)])):
        (tmp_path / 'in').mkdir(exist_ok=True)
        for number in range(count):
            (tmp_path / 'in' / f'{number}.png').write_bytes(encode(np.full((60, 80, 3), 99, np.uint8), '.png'))
        assert main(['recognise', str(tmp_path / 'in'), '--out', str(tmp_path / f'{count}'), *nets]) == 0
        assert sorted(path.name for path in (tmp_path / f'{count}').glob('contact*')) == sheets
    assert [cv2.imread(str(tmp_path / '5' / name)).shape for name in sheets] == [(344, 640, 3)] * 2 + [(344, 320, 3)]


def test_a_picture_that_no_jpeg_holds_is_drawn_smaller(nets, tmp_path):
    (tmp_path / 'wide.png').write_bytes(encode(np.full((20, 66000, 3), 99, np.uint8), '.png'))
    assert main(['recognise', str(tmp_path / 'wide.png'), '--out', str(tmp_path / 'out'), *nets]) == 0
    assert cv2.imread(str(tmp_path / 'out' / 'wide.jpg')).shape == (20, 65500, 3)


def test_verify_by_exit_status(made, models, capsys):
    first, second = (str(made / 'people' / f'Person {i}' / 'a.png') for i in (0, 1))
    assert main(['verify', first, first, *models]) == 0
    assert main(['verify', first, second, '--json', *models]) == 3
    assert json.loads(capsys.readouterr().out.splitlines()[-1])['same'] is False


def test_watch_names_faces_in_a_video(made, models, picture, capsys, tmp_path):
    path = tmp_path / 'party.mp4'
    small = cv2.resize(picture, (640, 443), interpolation=cv2.INTER_AREA)[:, :, ::-1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 10, (640, 443 // 2 * 2))
    for shift in range(4):
        writer.write(np.roll(small[:442], 2 * shift, 1))
    writer.release()
    status = main(['watch', str(path), '--gallery', str(made / 'gallery.npz'), '--out', str(tmp_path / 'faces.jsonl'),
                   '--video', str(tmp_path / 'named.mp4'), '--score', '0.8', *models])  # compression shows a seventh, of 0.73
    lines = [json.loads(line) for line in (tmp_path / 'faces.jsonl').read_text().splitlines()]
    assert status == 0 and [line['frame'] for line in lines] == [0, 1, 2, 3]
    assert {f['name'] for line in lines for f in line['faces']} >= {'Person 0', 'Person 1'}
    assert len({f['track'] for line in lines for f in line['faces']}) == 6
    out = cv2.VideoCapture(str(tmp_path / 'named.mp4'))
    assert out.get(cv2.CAP_PROP_FRAME_COUNT) == 4 and out.read()[1].shape == (442, 640, 3)
    assert json.loads(capsys.readouterr().err.splitlines()[-1])['frames'] == 4
    before = (tmp_path / 'named.mp4').read_bytes()
    assert main(['watch', str(path), '--video', str(tmp_path / 'named.mp4'), *models]) == 1
    assert 'is there already' in capsys.readouterr().err and (tmp_path / 'named.mp4').read_bytes() == before


@pytest.fixture
def server(video):
    """A camera in the network that is gone after eight pictures, and a video that has an end; their addresses."""
    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            if self.path == '/video.mp4':
                self.send_header('Content-Length', str(len(video.read_bytes())))
                self.end_headers()
                self.wfile.write(video.read_bytes())
                return
            self.send_header('Content-Type', 'multipart/x-mixed-replace; boundary=frame')
            self.end_headers()
            for _ in range(8):
                data = encode(np.full((120, 160, 3), 99, np.uint8))
                self.wfile.write(b'--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n' % (len(data), data))

        def log_message(self, *args) -> None:
            pass
    with ThreadingHTTPServer(('127.0.0.1', 0), Camera) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{found.server_port}'
        found.shutdown()


def test_a_camera_that_is_lost_is_an_error_and_the_log_goes_on(server, nets, capsys, tmp_path):
    log = tmp_path / 'door.jsonl'
    log.write_text('{"frame": 0}\n')
    assert main(['watch', f'{server}/camera', '--out', str(log), *nets]) == 1
    assert 'camera ended after 8 frames: the camera or the connection is lost' in capsys.readouterr().err
    assert log.read_text() == '{"frame": 0}\n'  # nobody came by
    assert main(['watch', f'{server}/camera', '--sequential', '--seconds', '0.001', *nets]) == 0  # told to stop
    capsys.readouterr()
    assert main(['watch', f'{server}/video.mp4', *nets]) == 0  # played to its end, and every frame of it
    assert json.loads(capsys.readouterr().err.splitlines()[-1]).items() >= {'frames': 40, 'dropped': 0}.items()
    assert [frame.seconds for frame in VideoSource(f'{server}/video.mp4')] == [number / 20 for number in range(40)]


@pytest.mark.parametrize('option', ['--sequential', '--live'])
def test_a_video_that_was_stopped_is_not_called_damaged(video, nets, capsys, option):
    assert main(['watch', str(video), '--seconds', '0.001', option, *nets]) == 0
    assert 'damaged' not in capsys.readouterr().err


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_watch_that_is_told_to_end_keeps_its_video(number, video, nets, tmp_path):
    """Ctrl-C, and what `systemctl stop` sends."""
    path = tmp_path / 'seen.mp4'
    command = [sys.executable, '-m', 'zoo.cli', 'watch', str(video), '--live', '--video', str(path), *nets]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while not [*tmp_path.glob('.seen*.mp4')] and process.poll() is None:
            time.sleep(0.02)
        time.sleep(0.5)
        process.send_signal(number)
        said = process.communicate()[1]
    assert process.returncode == 0 and 0 < json.loads(said.splitlines()[-1])['frames'] < 40, said
    assert 0 < cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) < 40 and [*tmp_path.iterdir()] == [path]


def test_a_video_that_was_cut_is_called_damaged(video, nets, capsys, tmp_path):
    whole, cut = tmp_path / 'whole.avi', tmp_path / 'cut.avi'
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter_fourcc(*'MJPG'), 20, (160, 120))
    for _ in range(40):
        writer.write(np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8))
    writer.release()
    cut.write_bytes(whole.read_bytes()[:whole.stat().st_size // 2])
    assert main(['watch', str(whole), *nets]) == 0
    capsys.readouterr()
    assert main(['watch', str(cut), *nets]) == 1
    assert 'of 40 frames: it is damaged' in capsys.readouterr().err


def test_watch_plays_real_faces_in_real_time(made, models, picture, capsys, tmp_path):
    """A pan over the group photo, 100 frames a second: more than any machine manages. Frames are dropped, those that are shown
    are right, and the video keeps its time."""
    from benchmarks.video_speed import write_video
    path, frames, rate = tmp_path / 'pan.avi', 40, 100
    write_video(path, rate, frames)

    def watch(*options: str) -> tuple[dict, list[dict]]:
        out = tmp_path / f'faces{options[0]}.jsonl'
        assert main(['watch', str(path), '--gallery', str(made / 'gallery.npz'), '--out', str(out), *options, *models]) == 0
        return json.loads(capsys.readouterr().err.splitlines()[-1]), [json.loads(x) for x in out.read_text().splitlines()]
    every, expected = watch('--sequential')
    rates, lines = watch('--live', '--video', str(tmp_path / 'named.mp4'))
    assert every['frames'] == len(expected) == frames and not every['dropped']
    assert rates['dropped'] >= 10 and 2 <= rates['frames'] == len(lines) and rates['frames'] + rates['dropped'] <= frames
    boxes = {line['frame']: [face['box'] for face in line['faces']] for line in expected}
    assert len({str(found) for found in boxes.values()}) > 30  # the picture does move
    numbers = [line['frame'] for line in lines]
    assert numbers == sorted(set(numbers)) and all(line['seconds'] == line['frame'] / rate for line in lines)
    assert [[face['box'] for face in line['faces']] for line in lines] == [boxes[number] for number in numbers]
    assert {face.get('name') for line in expected for face in line['faces']} >= {'Person 0', 'Person 1'}
    video = cv2.VideoCapture(str(tmp_path / 'named.mp4'))
    assert video.get(cv2.CAP_PROP_FPS) == rate and video.get(cv2.CAP_PROP_FRAME_COUNT) == numbers[-1] + 1
    shown = [video.read()[1] for _ in range(numbers[-1] + 1)]
    plain = cv2.VideoCapture(str(path))
    source = [plain.read()[1] for _ in range(frames)]
    for number in numbers[1:]:  # each shown frame is its own, with rectangles drawn on it, and not another one
        distances = [np.abs(shown[number].astype(int) - source[other]).mean() for other in (number, (number + 20) % frames)]
        assert distances[0] < distances[1]
