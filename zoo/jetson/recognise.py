"""Name the faces in pictures or in front of a camera: one JSON line per picture or frame.

  python3 recognise.py people a.jpg b.jpg
  python3 recognise.py people --camera 0                    a camera, a video file, an RTSP address or a GStreamer pipeline
  python3 recognise.py people --camera 0 --out seen.avi     also a video with boxes and names drawn in

`people` holds a folder for each person, `people/NAME/*.jpg`; the face in the middle of each picture counts.

Ctrl-C ends it, and so does SIGTERM, with which services are stopped. A camera or stream that ends by itself is lost: the exit
status is then 1, so that whatever started this can start it again.
"""

import json
import os
import signal
import sys
import time
from datetime import datetime

import numpy as np

from .bundle import BundleError
from .decode import tenths
from .pictures import central_crop, crop_faces, public_name, read_picture, require_opencv
from .recogniser import unit
from .session import Session, make_parser, run_script

__all__ = ['System', 'main']

GREEN, RED = (0, 160, 0), (0, 0, 200)  # BGR


def main(argv=None):
    parser = make_parser(__doc__.split('\n')[0])
    parser.add_argument('people', help='folder with a folder of pictures for each person')
    parser.add_argument('pictures', nargs='*', help='pictures to look at')
    parser.add_argument('--camera', metavar='SOURCE', help='number of a camera, or whatever OpenCV can open')
    parser.add_argument('--out', metavar='FILE.avi', help='write what the camera sees, with boxes and names drawn in')
    parser.add_argument('--precision', default='', help="precision of the engine; the bundle's default when not given")
    parser.add_argument('--threshold', type=float, help="cosine above which a face is known; the bundle's when not given")
    return run_script(_run, parser.parse_args(argv))


class System:
    """Detector, recogniser and the persons they know.

    Args:
        people: folder of folders, one a person.
        threshold: least cosine similarity.

    Raises:
        BundleError: nobody is in ``people``.
    """

    def __init__(self, session, people, precision='', threshold=None):
        self.detector, self.recogniser = session.detector(), session.recogniser(precision)
        self.size = session.bundle.facts['preprocess']['input_size']
        self.threshold = session.bundle.facts['threshold'] if threshold is None else threshold
        self.seconds = {'detect': 0.0, 'recognise': 0.0}
        self.names, self.persons = self._enrol(people)

    def _enrol(self, people):
        if not os.path.isdir(people):
            raise BundleError('%s: no such folder' % people)
        names, persons = [], []
        for path in _entries(people):
            crops = [crop for crop in map(self._central, _entries(path)) if crop is not None]
            if crops:
                names.append(_text(os.path.basename(path)))
                persons.append(unit(unit(self.recogniser(np.stack(crops))).mean(0)[None])[0])
            else:
                sys.stderr.write('%s: no picture of a face in it; left out\n' % path)
        if not names:
            raise BundleError('%s: no person in it; make a folder of pictures for each person, NAME/*.jpg' % people)
        return names, np.stack(persons)

    def _central(self, path):
        try:
            return central_crop(read_picture(path), self.detector, self.size, path)
        except BundleError as error:
            sys.stderr.write('%s; left out\n' % error)

    def __call__(self, picture):
        """Faces of a picture uint8 RGB ``(H, W, 3)``.

        Returns:
            List of mappings: ``box``, ``landmarks``, ``score``, ``similarity`` to the most similar person, and that person's
            ``name``, None for a stranger.
        """
        began = time.perf_counter()
        boxes, landmarks, scores = self.detector(picture)
        crops, rows = crop_faces(picture, landmarks, self.size)
        detected = time.perf_counter()
        found = unit(self.recogniser(crops)).dot(self.persons.T) if rows else []
        self.seconds['detect'] += detected - began
        self.seconds['recognise'] += time.perf_counter() - detected
        faces = []
        for row, similarity in zip(rows, found):
            best = int(similarity.argmax())
            faces.append({'box': tenths(boxes[row]), 'landmarks': tenths(landmarks[row]),
                          'score': round(float(scores[row]), 4), 'similarity': round(float(similarity[best]), 4),
                          'name': self.names[best] if similarity[best] > self.threshold else None})
        return faces


def _entries(folder):
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in names if not name.startswith('.')]


def _text(name):
    """A file's name as UTF-8 has it: without a locale, Python 3.6 makes of it what neither JSON nor OpenCV can write."""
    return os.fsencode(name).decode('utf-8', 'replace')


def _run(arguments):
    if bool(arguments.pictures) == (arguments.camera is not None):
        raise BundleError('name either pictures or --camera SOURCE')
    system = System(Session(arguments.bundle), arguments.people, arguments.precision, arguments.threshold)
    status = 0
    for path in arguments.pictures:
        try:
            _say({'picture': _text(path), 'faces': system(read_picture(path))})
        except BundleError as error:
            status = 1
            _say({'picture': _text(path), 'error': _text(str(error))})
    if arguments.camera is not None:
        status = _watch(system, arguments.camera, arguments.out)
    return status


def _watch(system, source, out):
    """Name the faces of a source until it ends; the exit status, 1 when it is one that has no end."""
    cv2 = require_opencv()
    camera = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not camera.isOpened():
        raise BundleError('%s: OpenCV cannot open it as a camera, video or pipeline' % public_name(source))
    system.seconds = dict.fromkeys(system.seconds, 0.0)
    endless = not os.path.isfile(source) and not camera.get(cv2.CAP_PROP_FRAME_COUNT) > 0  # which may be NaN
    count, began, video, lost = 0, time.perf_counter(), None, False
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the video is closed
    try:
        while True:
            ready, frame = camera.read()
            if not ready:
                lost = endless
                break
            seconds = time.perf_counter() - began  # not the clock of the day, which a board sets when it finds the network
            came = {'time': datetime.now().astimezone().isoformat(timespec='milliseconds')} if endless else {}
            faces = system(np.ascontiguousarray(frame[..., ::-1]))
            _say(dict(came, frame=count, seconds=round(seconds, 3), faces=faces))
            count += 1
            if out:
                if video is None:
                    video = _Video(out, camera.get(cv2.CAP_PROP_FPS), frame.shape[1::-1], seconds if endless else None)
                video.add(_draw(frame, faces), seconds)
    except KeyboardInterrupt:
        pass
    finally:
        camera.release()
        if video:
            video.close()
    if not count:
        raise BundleError('%s: gave no frame' % public_name(source))
    milliseconds = ', '.join('%s %.1f ms' % (stage, 1e3 * system.seconds[stage] / count) for stage in system.seconds)
    sys.stderr.write('%d frames, %.1f a second; %s\n'
                     % (count, count / max(1e-9, time.perf_counter() - began), milliseconds))
    if lost:
        sys.stderr.write('%s ended after %d frames: the camera or the connection is lost\n' % (public_name(source), count))
    return int(lost)


class _Video:
    """A video that keeps the time of a camera.

    Args:
        rate: frames a second, as the camera says.
        size: width and height.
        first: when the first frame came, in seconds; None of a file, of which every frame comes.
    """

    def __init__(self, path, rate, size, first):
        cv2 = require_opencv()
        self._rate = rate if rate >= 1 else 25.0  # cameras may say 0 or NaN
        self._size, self._first, self._written = size, first, 0
        self._writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*'MJPG'), self._rate, size)
        if not self._writer.isOpened():
            raise BundleError('%s: OpenCV cannot write a video there; the folder must exist, and the name end in .avi' % path)

    def add(self, frame, seconds):
        """Write a frame that came after so many seconds, and once more for each before it that nobody had time to look at."""
        cv2 = require_opencv()
        if frame.shape[1::-1] != self._size:  # a stream may change its size; OpenCV leaves such frames out
            frame = cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA)
        due = self._written + 1 if self._first is None else round((seconds - self._first) * self._rate) + 1
        for _ in range(self._written, due):
            self._writer.write(frame)
        self._written = max(self._written, due)

    def close(self):
        self._writer.release()


def _draw(frame, faces):
    cv2 = require_opencv()
    for face in faces:
        left, top, right, bottom = (round(side) for side in face['box'])
        colour = GREEN if face['name'] else RED
        cv2.rectangle(frame, (left, top), (right, bottom), colour, 2)
        base = top - 6 if top > 24 else max(top, 0) + 20  # at the upper edge there is room inside the box only
        cv2.putText(frame, '%s %.2f' % (face['name'] or 'unknown', face['similarity']), (max(left, 0), base),
                    cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour, 2)
    return frame


def _say(line):
    sys.stdout.write(json.dumps(line) + '\n')
    sys.stdout.flush()
