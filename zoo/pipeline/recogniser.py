"""From pictures to embedded faces: detect, align, judge, embed a picture's faces in batches; many pictures side by side."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from plugins.faces import Faces
from plugins.preprocess import FaceError, l2_normalise
from zoo.jetson.align import align
from zoo.jetson.decode import tenths
from zoo.pipeline.contract import Contract, contract_of
from zoo.pipeline.gallery import KnownPersons, Match
from zoo.pipeline.pictures import Picture, read_picture
from zoo.pipeline.quality import Quality, QualityGate, assess
from zoo.runtime.detector import Detector, open_detector
from zoo.runtime.embedder import Embedder, embed_batches, open_embedder, usable_cores

__all__ = ['Face', 'Pipeline', 'Scene', 'open_pipeline', 'recognise']


@dataclass(frozen=True)
class Face:
    """A face of a picture.

    Attributes:
        box: float32 ``(4,)`` x1, y1, x2, y2; landmarks: float32 ``(5, 2)``; both in pixels of the picture.
        quality: what was measured of it.
        refused: why it was not compared, or None.
        embedding: float32 ``(D,)`` of unit length; None when refused.
        match: the most similar person of a gallery, when there was one to ask; ``match.known`` says whether it is good enough.
    """

    box: np.ndarray
    landmarks: np.ndarray
    quality: Quality
    refused: str | None = None
    embedding: np.ndarray | None = None
    match: Match | None = None

    @property
    def name(self) -> str | None:
        """The person's name; None when unknown."""
        return self.match.name if self.match and self.match.known else None

    def to_dict(self) -> dict:
        """Plain values for JSON, without the embedding; coordinates to a tenth of a pixel."""
        return {'box': tenths(self.box), 'landmarks': tenths(self.landmarks),
                **self.quality.to_dict(), **({'refused': self.refused} if self.refused else {}),
                'name': self.name, **(self.match.to_dict() if self.match else {})}


@dataclass(frozen=True)
class Scene:
    """What was found in one picture.

    Attributes:
        source: as it was given.
        picture: uint8 RGB ``(H, W, 3)``, upright; None when it could not be read.
        faces: best detected first.
        error: why the picture could not be read, or None.
    """

    source: Picture
    picture: np.ndarray | None
    faces: tuple[Face, ...] = ()
    error: str | None = None

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        name = {'picture': str(self.source)} if isinstance(self.source, str) or hasattr(self.source, '__fspath__') else {}
        if self.error:
            return {**name, 'error': self.error}
        height, width = self.picture.shape[:2]
        return {**name, 'width': width, 'height': height, 'faces': [face.to_dict() for face in self.faces]}


class Pipeline:
    """A detector and an embedder, joined by the one alignment.

    Args:
        detector, embedder: of any runtime.
        gate: faces below it are reported, but not embedded.
        flip: add the embedding of the mirrored face. Off halves the work; thresholds of the cards are measured with it on.
        batch: faces embedded at once; more than eight gain nothing (results/system_speed.json, cpu_ms_a_face_by_batch).
        workers: pictures that :meth:`stream` takes at a time. As many as there are cores, with runtimes of one thread each, is
            fastest: small nets gain little from a second thread (results/album_speed.json).
    """

    def __init__(self, detector: Detector, embedder: Embedder, gate: QualityGate | None = None, flip: bool = True,
                 batch: int = 8, workers: int = 1) -> None:
        self.detector, self.embedder, self.gate, self.flip = detector, embedder, gate or QualityGate(), flip
        self.batch, self.workers = batch, workers

    def contract(self) -> Contract:
        """What the embeddings may be compared with."""
        return contract_of(self.embedder, self.flip)

    def __call__(self, source: Picture) -> Scene:
        """The faces of one picture.

        Raises:
            FaceError: it cannot be read.
        """
        picture = read_picture(source)
        scene, crops = self.detect(picture, source)
        rows = iter(self.embed_crops(crops))
        faces = tuple(face if face.refused else replace(face, embedding=next(rows)) for face in scene.faces)
        return replace(scene, faces=faces)

    def stream(self, sources: Iterable[Picture]) -> Iterator[Scene]:
        """Many pictures in order, ``workers`` at a time; one that cannot be read gives a scene with ``error``.

        Raises:
            FaceError: a single picture, whose letters, bytes or rows would be taken for pictures.
        """
        if isinstance(sources, str | os.PathLike | bytes | bytearray) or (isinstance(sources, np.ndarray) and sources.ndim < 4):
            raise FaceError('stream() takes many pictures; put the one into a list, or call the pipeline with it')
        return self._stream(sources)

    def _stream(self, sources: Iterable[Picture]) -> Iterator[Scene]:
        waiting: deque[Future[Scene]] = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for source in sources:
                    waiting.append(pool.submit(self._scene, source))
                    if len(waiting) > self.workers:  # one more than is worked on: whoever reads may be slow
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _scene(self, source: Picture) -> Scene:
        try:
            return self(source)
        except FaceError as error:
            return Scene(source, None, error=str(error))

    def detect(self, picture: np.ndarray, source: Picture = '') -> tuple[Scene, np.ndarray]:
        """The faces of a picture uint8 RGB ``(H, W, 3)``, not yet embedded, and the crops ``(C, S, S, 3)`` of those that passed
        the gate."""
        found = self.detector(picture)
        found = found[_spans_face(found)]
        crops = align(picture, found.landmarks, self.embedder.preprocess.input_size)
        qualities = assess(found, crops)
        faces = tuple(Face(box, points, quality, self.gate.reason(quality)) for box, points, quality in
                      zip(found.boxes, found.landmarks, qualities, strict=True))
        return Scene(source, picture, faces), crops[[face.refused is None for face in faces]]

    def embed_crops(self, crops: np.ndarray) -> np.ndarray:
        """Aligned faces uint8 RGB ``(C, S, S, 3)`` to float32 ``(C, D)`` of unit length."""
        batches = (crops[i:i + self.batch] for i in range(0, len(crops), self.batch))
        sums = [s for s, _ in embed_batches(self.embedder, batches, self.flip)]
        return l2_normalise(np.concatenate(sums)).astype(np.float32) if sums else np.empty((0, self.embedder.num_features),
                                                                                          np.float32)


def open_pipeline(recogniser: str | os.PathLike = 'fdfacenet', detector: str | os.PathLike = 'retinaface_mnet025', *,
                  network: str | None = None, size: float = 640, score: float | None = None, gate: QualityGate | None = None,
                  flip: bool = True, threads: int = 0, many: bool = False) -> Pipeline:
    """A pipeline of two models, each with the runtime that its file asks for.

    Args:
        recogniser, detector: a model of the zoo (PyTorch), ``.onnx``, ``.param`` or a folder with one (NCNN), or weights.
        network: backbone of a recogniser's weights file that does not say it.
        size, score: see :class:`zoo.runtime.detector.FaceDetector`; gate, flip: see :class:`Pipeline`.
        threads: cores to use; 0: all that this process may use.
        many: for :meth:`Pipeline.stream` and videos: each core takes a picture of its own, instead of sharing one.

    Raises:
        FileNotFoundError, ValueError, KeyError: nothing can be opened under a name; the message says why.
        MissingExtra: a runtime is not installed; the message says what to install.
    """
    each, workers = (1, threads or usable_cores()) if many else (threads, 1)
    return Pipeline(open_detector(detector, each, size, score), open_embedder(recogniser, each, network), gate, flip,
                    workers=workers)


def recognise(scene: Scene, gallery: KnownPersons, threshold: float) -> Scene:
    """The scene with every embedded face compared with the gallery.

    Args:
        threshold: cosine above which a person is known; :func:`zoo.pipeline.threshold.threshold_of` has it for a false accept
            rate.
    """
    asked = [face for face in scene.faces if face.embedding is not None]
    if not asked:
        return scene
    matches = iter(gallery.search(np.stack([face.embedding for face in asked]), threshold))
    return replace(scene, faces=tuple(face if face.embedding is None else replace(face, match=next(iter(next(matches)), None))
                                      for face in scene.faces))


def _spans_face(faces: Faces) -> np.ndarray:
    """Detections whose five points do not fall together (a degenerate one cannot be aligned)."""
    spread = faces.landmarks - faces.landmarks.mean(1, keepdims=True)
    return np.isfinite(faces.landmarks).all((1, 2)) & (np.square(spread).sum((1, 2)) > 1)
