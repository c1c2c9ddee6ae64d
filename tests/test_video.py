"""Tracker, threads, dropped frames, and who is named in a video."""

from __future__ import annotations

import re
import socket
import threading
import time
from datetime import datetime, timedelta
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from plugins.faces import Faces
from plugins.preprocess import FaceError, Preprocess
from tests.conftest import encode
from zoo.commands.watch import _video
from zoo.pipeline.gallery import Gallery
from zoo.pipeline.quality import Quality, QualityGate
from zoo.pipeline.recogniser import Face, Pipeline, Scene
from zoo.pipeline.tracker import Track, Tracker
from zoo.pipeline.video import Frame, Looks, Result, VideoRecogniser, VideoSource


def face(x: float) -> Face:
    return Face(np.float32([x, 0, x + 40, 40]), np.zeros((5, 2), np.float32), Quality(0.9, 40.0, 0.0, 99.0))


class SquareDetector:
    """Finds the one bright square of a made-up frame; ``delay`` seconds a frame."""

    name = 'square'

    def __init__(self, delay: float = 0.0, fail_at: int | None = None) -> None:
        self.delay, self.fail_at, self.calls = delay, fail_at, 0

    def __call__(self, picture: np.ndarray) -> Faces:
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError('the accelerator is gone')
        time.sleep(self.delay)
        rows, columns = np.nonzero(picture[..., 1] > 128)
        if len(rows) < 50:
            return Faces.from_rows([])
        x, y, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        points = np.float32([[.3, .4], [.7, .4], [.5, .6], [.35, .8], [.65, .8]]) * (right - x, bottom - y) + (x, y)
        return Faces.from_rows([[x, y, right, bottom, *points.ravel(), 0.9]])


class MeanEmbedder:
    """Embeds a crop by a few of its pixels; counts the faces."""

    name, num_features, preprocess = 'mean', 8, Preprocess()

    def __init__(self) -> None:
        self.faces = 0

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        self.faces += len(faces)
        return faces[:, 30:90:8, 56].mean(2).astype(np.float32) + 1


def test_tracks_follow_and_end():
    tracker = Tracker(patience=3)
    first = tracker.update((face(0), face(100)))
    again = tracker.update((face(104), face(5)))
    assert [t.number for t in first] == [1, 2] and [t.number for t in again] == [2, 1]
    tracker.update((), steps=2)
    assert [t.number for t in tracker.update((face(6),))] == [1]
    tracker.update((), steps=4)
    assert not tracker.tracks
    assert tracker.update((face(6),))[0].number == 3


def test_dropped_frames_end_tracks_too():
    tracker = Tracker(patience=3)
    tracker.update((face(0),))
    assert tracker.update((face(0),), steps=4)[0].number == 1  # three frames between
    tracker.update(())
    assert tracker.update((face(0),), steps=4)[0].number == 2
    track, = tracker.update((face(0),), steps=5)  # no frame has shown that it was gone, but nobody knows
    assert track.number == 2 and track.returned


def test_a_track_is_known_by_its_recent_looks():
    track, looks = Track(1, face(0)), np.eye(2, dtype=np.float32)
    for number in range(1000):
        track.look(looks[number // 990], number)
    assert track.looks == 1000 and not track.shows(looks[0], 0.1) and track.shows(looks[1], 0.99)


def test_two_faces_never_share_a_track():
    tracker = Tracker()
    tracker.update((face(0),))
    assert len({t.number for t in tracker.update((face(2), face(4)))}) == 2


def test_every_frame_of_a_file_in_order(video):
    embedder = MeanEmbedder()
    recogniser = VideoRecogniser(Pipeline(SquareDetector(), embedder, flip=False), looks=Looks(3, 100))
    results = list(recogniser.run(VideoSource(video)))
    assert [r.frame.number for r in results] == list(range(40)) and recogniser.rates.dropped == 0
    assert [len(r.scene.faces) for r in results] == [1] * 20 + [0] * 12 + [1] * 8
    assert {t.number for r in results for t in r.tracks} == {1, 2}
    assert embedder.faces == recogniser.rates.embedded == 6  # three looks at each of two tracks, not one a frame
    facts = recogniser.rates.to_dict()
    assert facts['frames'] == 40 and facts['fps_sequential'] > 0 and facts['fps_pipelined'] > 0


def test_threads_find_the_same(video):
    """Detectors that take longer for some frames than for the next."""
    def run(method: str, workers: int) -> list[dict]:
        detector = SquareDetector()
        def search(picture: np.ndarray) -> Faces:
            time.sleep(0.01 * (int(picture[60].sum()) % 3))
            return detector(picture)
        search.name = 'slow'
        recogniser = VideoRecogniser(Pipeline(search, MeanEmbedder(), flip=False, workers=workers))
        return [r.to_dict() for r in getattr(recogniser, method)(VideoSource(video))]
    alone = run('run_sequentially', 1)
    assert run('run', 1) == run('run', 4) == alone


def test_frames_are_searched_side_by_side(video):
    """Four detectors of 0.2 s: a frame is late by its own search, and many more are done than by one."""
    def run(workers: int) -> tuple[int, float]:
        recogniser = VideoRecogniser(Pipeline(SquareDetector(delay=0.2), MeanEmbedder(), flip=False, workers=workers))
        began, late = time.monotonic(), []
        for result in recogniser.run(VideoSource(video, live=True)):
            late.append(time.monotonic() - began - result.frame.seconds)
        return recogniser.rates.frames, sorted(late)[len(late) // 2]
    (one, _), (four, late) = run(1), run(4)
    assert four > 2 * one and late < 1


def test_a_live_source_drops_frames_and_does_not_get_late(video):
    recogniser = VideoRecogniser(Pipeline(SquareDetector(delay=0.2), MeanEmbedder(), flip=False))
    began, late = time.monotonic(), []
    for result in recogniser.run(VideoSource(video, live=True)):
        late.append(time.monotonic() - began - result.frame.seconds)
    rates = recogniser.rates
    assert rates.dropped >= 15 and rates.frames + rates.dropped <= 40 and rates.frames >= 4
    assert late[-1] < 1.5  # 40 frames at 0.2 s each would be 6 s late


def test_a_failure_in_a_thread_reaches_the_caller(video):
    recogniser = VideoRecogniser(Pipeline(SquareDetector(fail_at=5), MeanEmbedder(), flip=False))
    with pytest.raises(RuntimeError, match='accelerator'):
        list(recogniser.run(VideoSource(video)))


def test_stops_when_asked(video):
    recogniser = VideoRecogniser(Pipeline(SquareDetector(0.01), MeanEmbedder(), flip=False))
    results = []
    for result in recogniser.run(VideoSource(video)):
        results.append(result)
        if len(results) == 3:
            recogniser.stop()
    assert len(results) == 3 and recogniser.stopped


@pytest.mark.parametrize('method', ['run', 'run_sequentially'])
def test_runs_again(video, method):
    recogniser = VideoRecogniser(Pipeline(SquareDetector(), MeanEmbedder(), flip=False))
    run = getattr(recogniser, method)
    assert [len(list(run(VideoSource(video)))) for _ in range(2)] == [40, 40]
    assert recogniser.rates.frames == 40 and not recogniser.stopped
    again = [track.number for result in run(VideoSource(video)) for track in result.tracks]
    assert {*again} == {5, 6}  # two tracks a run, and no number twice
    recogniser.stop()
    assert list(run(VideoSource(video))) == [] and recogniser.stopped
    assert len(list(run(VideoSource(video)))) == 40


def test_names_come_from_the_mean_of_the_looks(video):
    pipeline = Pipeline(SquareDetector(), MeanEmbedder(), flip=False)
    probe = next(iter(VideoRecogniser(pipeline).run_sequentially(VideoSource(video))))
    gallery = Gallery(pipeline.contract())
    gallery.add('Square', probe.tracks[0].embedding, ['0'])
    results = list(VideoRecogniser(pipeline, gallery, 0.9).run(VideoSource(video)))
    assert {f.name for r in results for f in r.scene.faces} == {'Square'}


class Queue:
    """Frames with the faces of ``people``, a letter a frame, all in the same place; a small letter is a smaller face."""

    live = False

    def __init__(self, people: str, step: int = 1) -> None:
        self.people, self.step = people, step

    def __iter__(self):
        for number, person in enumerate(self.people):
            picture = np.full((120, 160, 3), 20, np.uint8)
            if person != ' ':
                side = 30 if person.isupper() else 20
                upper, lower = (250, 140) if person in 'Aa' else (140, 250)
                picture[60 - side:60, 80 - side:80 + side], picture[60:60 + side, 80 - side:80 + side] = upper, lower
            yield Frame(number * self.step, number / 10, picture)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(('people', 'names', 'tracks'), [
    ('AAAAAAAA     BBBB', 'AAAAAAAA     BBBB', 2),  # Bob stands where Ann stood half a second ago
    ('AAAAAAAA     bbBB', 'AAAAAAAA     ??BB', 2),  # and is not called Ann before there is a look at him
    ('AAAAAAAA     AAAA', 'AAAAAAAA     AAAA', 1),
    ('AAAAABBBBBBBBBBBB', 'AAAAAAAAAABBBBBBB', 2),  # without a gap, from the next look on
])
def test_nobody_is_called_by_the_predecessors_name(people, names, tracks):
    pipeline = Pipeline(SquareDetector(), MeanEmbedder(), QualityGate(side=50), flip=False)
    gallery = Gallery(pipeline.contract())
    for name in 'AB':
        gallery.add(name, next(VideoRecogniser(pipeline).run_sequentially(Queue(name))).tracks[0].embedding, ['0'])
    results = list(VideoRecogniser(pipeline, gallery, 0.97, looks=Looks(3, 8)).run(Queue(people)))
    assert ''.join((r.scene.faces[0].name or '?') if r.scene.faces else ' ' for r in results) == names
    assert {t.number for r in results for t in r.tracks} == set(range(1, tracks + 1))


def test_a_machine_that_drops_many_frames_follows_too():
    """Twelve a frame: as many as a camera of 30 a second has for a board that manages two and a half."""
    pipeline = Pipeline(SquareDetector(), MeanEmbedder(), flip=False)
    gallery = Gallery(pipeline.contract())
    for name in 'AB':
        gallery.add(name, next(VideoRecogniser(pipeline).run_sequentially(Queue(name))).tracks[0].embedding, ['0'])
    results = list(VideoRecogniser(pipeline, gallery, 0.97).run(Queue('AAAAABBBB BB', step=12)))
    assert ''.join(r.scene.faces[0].name if r.scene.faces else ' ' for r in results) == 'AAAAABBBB BB'
    assert ''.join(str(t.number) for r in results for t in r.tracks) == '11111222233'


def test_a_gallery_is_only_asked_who_it_is(video):
    """How many persons a database holds is a request of its own, and would be one a frame."""
    class Database:
        def __init__(self, contract) -> None:
            self.gallery, self.searches = Gallery(contract), 0

        def __len__(self) -> int:
            raise AssertionError('counted')

        def search(self, *args, **options):
            self.searches += 1
            if self.searches == 2:  # enrolled by another program, while this one watches
                self.gallery.add('Square', np.ones((1, 8)), ['0'])
            return self.gallery.search(*args, **options)
    pipeline = Pipeline(SquareDetector(), MeanEmbedder(), flip=False)
    database = Database(pipeline.contract())
    results = list(VideoRecogniser(pipeline, database, 0.5, looks=Looks(3, 100)).run(VideoSource(video)))
    assert database.searches == 6 and [results[i].scene.faces[0].name for i in (0, 1, 39)] == [None, 'Square', 'Square']


def test_a_file_has_its_own_time(tmp_path):
    """JPEGs one after the other: no header says how many."""
    path = tmp_path / 'frames.mjpeg'
    path.write_bytes(b''.join(encode(np.full((120, 160, 3), level, np.uint8)) for level in range(10)))
    source = VideoSource(path)
    assert source.expected is None
    assert [frame.seconds for frame in source] == [number / source.rate for number in range(10)]


@pytest.mark.parametrize('true', [8, 25, 50])
def test_a_written_video_keeps_the_time_of_a_camera(true, tmp_path):
    """One that says 25 frames a second, or nothing, and gives as many as the light allows."""
    source = SimpleNamespace(rate=25.0, size=(160, 120))
    with _video(tmp_path / 'seen.mp4', source) as append:
        for number in range(2 * true + 1):
            picture = np.full((120, 160, 3), number, np.uint8)
            append(Result(Frame(number, number / true, picture), Scene('', picture), ()))
    assert cv2.VideoCapture(str(tmp_path / 'seen.mp4')).get(cv2.CAP_PROP_FRAME_COUNT) == 51


def test_a_written_video_goes_on_when_the_stream_changes_its_size(tmp_path):
    """As a stream does whose sender adapts to the network."""
    path = tmp_path / 'seen.mp4'
    with _video(path, SimpleNamespace(rate=25.0, size=(160, 120))) as append:
        for number, shape in enumerate(5 * [(120, 160, 3)] + 5 * [(60, 80, 3)] + 5 * [(240, 320, 3)]):
            picture = np.full(shape, 10 * number, np.uint8)
            append(Result(Frame(number, number / 25, picture), Scene('', picture), ()))
    levels = [frame.picture.mean() for frame in VideoSource(path)]
    np.testing.assert_allclose(levels, np.arange(0, 150, 10), atol=6)


def test_sources_that_are_none(tmp_path):
    with pytest.raises(FaceError, match='no such video'):
        VideoSource(tmp_path / 'none.mp4')
    (tmp_path / 'text.mp4').write_text('no video')
    with pytest.raises(FaceError, match='OpenCV can read'):
        VideoSource(tmp_path / 'text.mp4')
    for camera in (99, '/dev/null'):
        with pytest.raises(FaceError, match=f'{camera}: no camera: is it plugged in.*camera module'):
            VideoSource(camera)


def test_no_password_gets_into_a_log(monkeypatch):
    """Of the address of a camera, which is in every message of a watch that lost it."""
    monkeypatch.setattr(cv2, 'VideoCapture', lambda *options: SimpleNamespace(isOpened=lambda: False, release=lambda: None))
    monkeypatch.setattr(cv2.videoio_registry, 'hasBackend', lambda backend: True)
    for source, shown in (('rtsp://ann:se@cret@door:554/a@b', 'rtsp://...@door:554/a@b: no video'),
                          ('rtspsrc location=rtsp://ann:b@door/ ! appsink', 'rtspsrc location=rtsp://...@door/ ! appsink: no'),
                          ('http://door/live?user=ann&pwd=se@cret&ch=1', 'http://door/live?user=ann&pwd=...&ch=1: no'),
                          ('rtspsrc location=rtsp://door user-id=ann user-pw=secret ! appsink',
                           'rtspsrc location=rtsp://door user-id=ann user-pw=... ! appsink: no'),
                          ('http://door/a@b', 'http://door/a@b: no video that OpenCV can read: is it being sent')):
        with pytest.raises(FaceError, match=f'^{re.escape(shown)}'):
            VideoSource(source)


def test_device_files_and_pipelines(monkeypatch):
    """Opened as cameras, which have no end; a pipeline is refused where OpenCV would say nothing but that it failed."""
    opened = []

    class Capture:
        def __init__(self, *options) -> None:
            opened.append(options)

        def isOpened(self) -> bool:
            return True

        def read(self) -> tuple[bool, np.ndarray]:
            return True, np.zeros((4, 6, 3), np.uint8)

        def get(self, _) -> float:
            return 0.0

    monkeypatch.setattr(cv2, 'VideoCapture', Capture)
    camera = VideoSource('/dev/zero')
    assert opened == [('/dev/zero', cv2.CAP_ANY)] and camera.live and camera.endless and camera.size == (6, 4)
    text = 'libcamerasrc ! videoconvert ! appsink'
    monkeypatch.setattr(cv2.videoio_registry, 'hasBackend', lambda backend: False)
    with pytest.raises(FaceError, match='built without GStreamer'):
        VideoSource(text)
    monkeypatch.setattr(cv2.videoio_registry, 'hasBackend', lambda backend: True)
    source = VideoSource(text)
    assert opened[1:] == [(text, cv2.CAP_GSTREAMER)] and source.live and source.endless


def test_pictures_sent_to_a_port():
    """As `rpicam-vid --codec mjpeg --listen` sends them: JPEGs one after the other, without a header."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        def send() -> None:
            connection, _ = server.accept()
            with connection:
                for level in range(20):
                    connection.sendall(encode(np.full((120, 160, 3), 5 * level, np.uint8)))
        threading.Thread(target=send, daemon=True).start()
        source = VideoSource(f'tcp://127.0.0.1:{server.getsockname()[1]}')
        assert source.live and source.endless and source.size == (160, 120)
        frames = list(source)
    assert [round(float(frame.picture.mean()) / 5) for frame in frames] == list(range(20))
    line = Result(frames[0], Scene('', frames[0].picture), ()).to_dict()
    assert abs(datetime.now().astimezone() - datetime.fromisoformat(line['time'])) < timedelta(minutes=5)
