"""The process of one system that benchmarks/system_speed.py compares: FaceAnalysis, or our pipeline on some runtime.

    python benchmarks/system_worker.py SYSTEM.json-text

The first line of standard output says that the system is loaded. Then each line ``{"picture": name, "calls": n}`` of standard
input is answered with the milliseconds of n calls, in all and by stage, and each line ``{"album": [file, ...]}`` with the
seconds that the album took and its faces.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict

import numpy as np

from zoo.bench_worker import peak_mb


class Clock:
    """Milliseconds by stage, and functions that count towards them."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)

    def __call__(self, stage: str, function):
        def timed(*args, **kwargs):
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent[stage] += 1000 * (time.perf_counter() - began)
        return timed


class Session:
    """An onnxruntime session whose runs are counted."""

    def __init__(self, session, run) -> None:
        self._session, self.run = session, run

    def __getattr__(self, name: str):
        return getattr(self._session, name)


def _count_kernels(model, clock: Clock) -> None:
    """Of onnxruntime; what NCNN's binding does is not divided further."""
    choose = getattr(model, '_session_for_input_size', None)
    if choose:  # InsightFace 2.1 keeps a session for each size of a detector's input
        def chosen(size):
            session = choose(size)
            return Session(session, clock('kernels', session.run))
        model._session_for_input_size = chosen
    elif hasattr(model, 'session'):
        model.session = Session(model.session, clock('kernels', model.session.run))


class Timed:
    """A detector or embedder whose calls are counted."""

    def __init__(self, inner, call) -> None:
        self._inner, self._call = inner, call

    def __call__(self, *args):
        return self._call(*args)

    def __getattr__(self, name: str):
        return getattr(self._inner, name)


def pipeline(system: dict, clock: Clock):
    """Our pipeline: a function from a picture uint8 RGB to boxes ``(F, 4)`` and embeddings ``(F, D)``, and one from picture
    files to the number of faces in each."""
    from zoo.pipeline.recogniser import Pipeline
    from zoo.runtime import open_embedder
    from zoo.runtime.detector import open_detector
    detector = open_detector(system['detector'], system['threads'], threshold=system['score'])
    embedder = open_embedder(system['recogniser'], system['threads'])
    for model in (detector.net, embedder):
        _count_kernels(model, clock)
    chain = Pipeline(Timed(detector, clock('detect', detector)), Timed(embedder, clock('embed', embedder)), flip=False,
                     workers=system.get('workers', 1))

    def run(picture: np.ndarray):
        faces = [face for face in chain(picture).faces if face.embedding is not None]
        return [face.box for face in faces], [face.embedding for face in faces]
    return run, lambda files: [len(scene.faces) for scene in chain.stream(files)]


def face_analysis(system: dict, clock: Clock):
    """InsightFace's, with a pack of the same two files; see :func:`pipeline`."""
    import cv2
    import onnxruntime
    from insightface.app import FaceAnalysis
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = system['threads']
    app = FaceAnalysis('facezoo', root=system['root'], providers=['CPUExecutionProvider'], sess_options=options)
    app.prepare(ctx_id=-1, det_size=(640, 640), det_thresh=system['score'])
    recogniser = app.models['recognition']
    for model in (app.det_model, recogniser):
        _count_kernels(model, clock)
    app.det_model.detect = clock('detect', app.det_model.detect)
    recogniser.get_feat = clock('embed', recogniser.get_feat)

    def run(picture: np.ndarray):
        faces = app.get(np.ascontiguousarray(picture[..., ::-1]))
        return [face.bbox for face in faces], [face.normed_embedding for face in faces]
    return run, lambda files: [len(app.get(cv2.imread(file))) for file in files]


def main() -> None:
    system, clock, out = json.loads(sys.argv[1]), Clock(), sys.stdout
    sys.stdout = sys.stderr  # FaceAnalysis prints what it loads
    run, album = (face_analysis if system['name'] == 'FaceAnalysis' else pipeline)(system, clock)
    pictures = dict(np.load(system['pictures']))

    def answer(**facts) -> None:
        print(json.dumps(facts), file=out, flush=True)

    answer(loaded=True)
    for line in sys.stdin:
        asked, calls = json.loads(line), []
        if files := asked.get('album'):
            began = time.perf_counter()
            faces = album(files)
            answer(seconds=time.perf_counter() - began, faces=faces)
            continue
        for _ in range(asked['calls']):
            clock.spent.clear()
            began, busy = time.perf_counter(), time.process_time()
            boxes, embeddings = run(pictures[asked['picture']])
            total, busy = 1000 * (time.perf_counter() - began), 1000 * (time.process_time() - busy)
            stages = {stage: clock.spent[stage] for stage in ('detect', 'embed')}
            calls.append({'ms': total, 'cpu_ms': busy, **stages, 'align': total - sum(stages.values()),
                          'kernels': clock.spent.get('kernels')})
        answer(calls=calls, faces=len(boxes), peak_mb=peak_mb(), **({
            'boxes': np.array(boxes).tolist(), 'embeddings': np.array(embeddings).tolist()} if asked.get('found') else {}))


if __name__ == '__main__':
    main()
