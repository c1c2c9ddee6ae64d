"""Recognition of a camera, stream or video: reading, detection and recognition each in threads of their own.

Frames are searched for faces side by side, as many as the pipeline has workers, and go on in their order. At most one waits to
be searched: a live source that is faster than the machine loses frames; it never gets behind. A face is embedded a few times
when its track begins and now and then after that, not in every frame.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np

from plugins.preprocess import FaceError
from zoo.jetson.pictures import public_name
from zoo.pipeline.gallery import KnownPersons
from zoo.pipeline.recogniser import Pipeline, Scene
from zoo.pipeline.tracker import Track, Tracker

__all__ = ['Frame', 'Looks', 'Rates', 'Result', 'VideoRecogniser', 'VideoSource']


@dataclass(frozen=True)
class Frame:
    """A picture of the source.

    Attributes:
        number: from 0; picture: uint8 RGB ``(H, W, 3)``.
        seconds: since the first frame; of a video that has an end, in the video's own time.
        time: the time of day at which a frame of a camera or stream came.
    """

    number: int
    seconds: float
    picture: np.ndarray
    time: datetime | None = None


@dataclass(frozen=True)
class Result:
    """A frame, what was found in it, and the track of each face."""

    frame: Frame
    scene: Scene
    tracks: tuple[Track, ...]

    def to_dict(self) -> dict:
        """Plain values for a JSON line; the time of day in ISO 8601, local with its offset."""
        came = {'time': self.frame.time.isoformat(timespec='milliseconds')} if self.frame.time else {}
        faces = [{'track': track.number, **face.to_dict()} for track, face in zip(self.tracks, self.scene.faces, strict=True)]
        return {'frame': self.frame.number, 'seconds': round(self.frame.seconds, 3), **came, 'faces': faces}


@dataclass(frozen=True)
class Looks:
    """How often a tracked face is embedded: in its first ``first`` usable frames, when it was out of sight, and otherwise once
    every ``every`` frames."""

    first: int = 3
    every: int = 30

    def wanted(self, track: Track, frame: int) -> bool:
        return track.looks < self.first or track.returned or frame - track.looked >= self.every


@dataclass
class Rates:
    """Time spent in each stage.

    Attributes:
        seconds: by stage, over all threads; reading is not timed, since it waits for a live source.
        frames: done; embedded: faces; dropped: frames read from a live source and thrown away.
        wall: seconds from the start to the last frame.
    """

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    frames: int = 0
    embedded: int = 0
    dropped: int = 0
    wall: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        with self._lock:
            self.seconds[stage] += time.perf_counter() - began

    def to_dict(self) -> dict:
        """Milliseconds a frame by stage, and frames per second: ``sequential`` is what one thread doing these stages in turn
        would reach (they were timed while the others ran, and reading was not), ``pipelined`` what was reached."""
        frames = max(self.frames, 1)
        total = sum(self.seconds.values())
        return {'frames': self.frames, 'dropped': self.dropped, 'embedded_faces': self.embedded,
                'milliseconds': {stage: round(1000 * s / frames, 2) for stage, s in self.seconds.items()},
                'fps_sequential': round(self.frames / total, 2) if total else None,
                'fps_pipelined': round(self.frames / self.wall, 2) if self.wall else None}


# what could not be opened, by kind, in the words of the message
_WANTED = {
    'camera': "camera: is it plugged in, and free? For a board's camera module see the board's guide",
    'pipeline': 'pictures from this pipeline, which must end in appsink',
    'stream': 'video that OpenCV can read: is it being sent, and is the address right?',
    'file': 'video that OpenCV can read',
}


class VideoSource:
    """Frames of a camera (its number or device file), a stream (URL), a GStreamer pipeline or a file, by OpenCV.

    Args:
        source: what has `` ! `` in it is a pipeline; it ends in ``appsink``.
        live: frames that nobody waits for are dropped; by default those of cameras and streams without an end.

    Attributes:
        name: the source as given, but without a password; live: whether frames are dropped.
        rate: frames a second; size: width and height of the first one.
        expected: how many frames it says it has, or None; endless: a camera or stream, which has no end of its own.
        read: how many were read.

    Raises:
        FaceError: it cannot be opened or gives no frame; the message says what was tried.
    """

    def __init__(self, source: int | str | os.PathLike, live: bool | None = None) -> None:
        import cv2
        text, kind = str(source), _kind(str(source))
        if kind == 'file' and not Path(text).is_file():
            raise FaceError(f'{text}: no such video; a camera is given by its number or device file (/dev/video0), a stream by '
                            'its URL, a GStreamer pipeline with " ! " between its elements')
        self.name = public_name(text)
        if kind == 'pipeline' and not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            raise FaceError(f'{self.name}: a GStreamer pipeline, and OpenCV {cv2.__version__} here is built without GStreamer '
                            '(as that of PyPI is); install one that has it, or give a camera or the URL of a stream')
        self._capture = cv2.VideoCapture(int(text) if text.isdigit() else text,
                                         cv2.CAP_GSTREAMER if kind == 'pipeline' else cv2.CAP_ANY)
        ok, first = self._capture.read() if self._capture.isOpened() else (False, None)
        if not ok:
            self._capture.release()
            raise FaceError(f'{self.name}: no {_WANTED[kind]}')
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 1 <= rate <= 240 else 25.0
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.expected = int(count) if count > 0 and kind != 'camera' else None
        self.endless = kind != 'file' and self.expected is None
        self.live = self.endless if live is None else live
        self.size = first.shape[1], first.shape[0]
        self._first = first
        self.read = 0

    def __iter__(self) -> Iterator[Frame]:
        began = time.monotonic()
        picture = self._first
        while picture is not None:
            if self.live and not self.endless:  # a file that plays at its own speed, like a camera
                time.sleep(max(0.0, began + self.read / self.rate - time.monotonic()))
            seconds = time.monotonic() - began if self.endless else self.read / self.rate
            now = datetime.now().astimezone() if self.endless else None
            yield Frame(self.read, seconds, np.ascontiguousarray(picture[..., ::-1]), now)
            self.read += 1
            ok, picture = self._capture.read()
            picture = picture if ok else None

    def close(self) -> None:
        self._capture.release()


def _kind(source: str) -> str:
    """``pipeline`` (GStreamer's), ``camera``, ``stream`` or ``file``."""
    if ' ! ' in source:
        return 'pipeline'
    if source.isdigit() or Path(source).is_char_device():
        return 'camera'
    return 'stream' if '://' in source else 'file'


_END = object()


class VideoRecogniser:
    """Recognises a video source.

    Args:
        gallery, threshold: known persons and the cosine above which a face is one; without a gallery faces are only followed.

    Attributes:
        rates: of the run at work, or of the last one; stopped: that one was told to stop, and did not come to its end.
    """

    def __init__(self, pipeline: Pipeline, gallery: KnownPersons | None = None, threshold: float = 1.0,
                 tracker: Tracker | None = None, looks: Looks | None = None) -> None:
        self.pipeline, self.gallery, self.threshold = pipeline, gallery, threshold
        self.tracker, self.looks, self.rates = tracker or Tracker(), looks or Looks(), Rates()
        self._last = -1
        self._stop, self._failure = threading.Event(), None
        self.stopped = False

    def stop(self) -> None:
        """End the run after the frame in work; between two runs, the next one at once. May be called from a signal handler or
        another thread."""
        self._stop.set()

    def run(self, source: VideoSource) -> Iterator[Result]:
        """Results in the order of the frames, while the next ones are read and detected in other threads.

        Raises:
            Exception: whatever went wrong in a thread.
        """
        frames, detected = queue.Queue(1), queue.Queue(self.pipeline.workers)
        threads = [threading.Thread(target=self._guard, args=(work,), daemon=True) for work in (
            lambda: self._read(source, frames), lambda: self._detect(frames, detected))]
        with self._running(source, *threads) as began:
            while (item := self._take(detected)) is not _END:
                frame, found = item
                yield self._recognise(frame, *found.result())
                self.rates.wall = time.perf_counter() - began
        if self._failure:
            raise self._failure

    def run_sequentially(self, source: VideoSource) -> Iterator[Result]:
        """The same in one thread: what the sum of the stages costs."""
        with self._running(source) as began:
            for frame in source:
                if self._stop.is_set():
                    break
                yield self._recognise(frame, *self._find(frame))
                self.rates.wall = time.perf_counter() - began

    @contextmanager
    def _running(self, source: VideoSource, *threads: threading.Thread) -> Iterator[float]:
        """The time of the start. A run begins with nothing of the one before, and leaves a recogniser that can run again."""
        self.rates, self._last, self._failure = Rates(), -1, None
        self.tracker.tracks.clear()
        for thread in threads:
            thread.start()
        try:
            yield time.perf_counter()
        finally:
            self.stopped = self._stop.is_set() and self._failure is None
            self._stop.set()
            for thread in threads:
                thread.join()
            source.close()
            self._stop.clear()

    def _read(self, source: VideoSource, frames: queue.Queue) -> None:
        for frame in source:
            if self._stop.is_set():
                break
            if not source.live:
                self._give(frames, frame)
                continue
            try:
                frames.put_nowait(frame)
            except queue.Full:  # the waiting frame is the older one
                self._discard(frames)
                self._give(frames, frame)
        self._give(frames, _END)

    def _discard(self, frames: queue.Queue) -> None:
        try:
            frames.get_nowait()
            self.rates.dropped += 1
        except queue.Empty:  # it was taken just now
            pass

    def _detect(self, frames: queue.Queue, detected: queue.Queue) -> None:
        """Hand each frame on with what will be found in it; one is taken only when a worker is free for it."""
        free = threading.Semaphore(self.pipeline.workers)
        with ThreadPoolExecutor(self.pipeline.workers) as pool:
            while free.acquire() and (frame := self._take(frames)) is not _END:
                found = pool.submit(self._find, frame)
                found.add_done_callback(lambda _: free.release())
                self._give(detected, (frame, found))
        self._give(detected, _END)

    def _find(self, frame: Frame) -> tuple[Scene, np.ndarray]:
        with self.rates.measure('detect'):
            return self.pipeline.detect(frame.picture)

    def _recognise(self, frame: Frame, scene: Scene, crops: np.ndarray) -> Result:
        with self.rates.measure('recognise'):
            tracks = self.tracker.update(scene.faces, frame.number - self._last)
            self._last = frame.number
            usable = [i for i, face in enumerate(scene.faces) if face.refused is None]  # these have a crop
            rows = [row for row, i in enumerate(usable) if self.looks.wanted(tracks[i], frame.number)]
            for row, embedding in zip(rows, self.pipeline.embed_crops(crops[rows]), strict=True):
                tracks[usable[row]] = self._look(tracks[usable[row]], embedding, frame.number)
            self._ask([tracks[usable[row]] for row in rows])
            faces = tuple(replace(face, match=None if track.returned else track.match)
                          for track, face in zip(tracks, scene.faces, strict=True))
        self.rates.frames += 1
        self.rates.embedded += len(rows)
        return Result(frame, replace(scene, faces=faces), tuple(tracks))

    def _look(self, track: Track, embedding: np.ndarray, frame: int) -> Track:
        """The track with another look; a new track when the look is at somebody else. The threshold of the gallery decides
        that: below it two faces are two persons. Without a gallery there is no threshold, and faces are followed by their place
        alone."""
        if self.gallery is not None and not track.shows(embedding, self.threshold):
            track = self.tracker.renew(track)
        track.look(embedding, frame)
        return track

    def _ask(self, tracks: list[Track]) -> None:
        if self.gallery is not None and tracks:
            matches = self.gallery.search(np.stack([track.embedding for track in tracks]), self.threshold)
            for track, found in zip(tracks, matches, strict=True):
                track.match = next(iter(found), None)

    def _guard(self, work) -> None:
        try:
            work()
        except BaseException as error:  # handed to the caller of run()
            self._failure = error
            self._stop.set()

    def _give(self, to: queue.Queue, item) -> None:
        while not self._stop.is_set():
            try:
                return to.put(item, timeout=0.1)
            except queue.Full:
                continue

    def _take(self, queue_: queue.Queue):
        while not self._stop.is_set():
            try:
                return queue_.get(timeout=0.1)
            except queue.Empty:
                continue
        return _END
