"""The Detector protocol, a net of any runtime as a Detector, and the function that opens one by its file."""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np

from plugins.faces import Faces
from plugins.preprocess import FaceError
from zoo.jetson.decode import decode, fit, suppress
from zoo.runtime.embedder import runtime_of

__all__ = ['Detector', 'DetectorNet', 'FaceDetector', 'candidates', 'open_detector']

# for detectors that state none: InsightFace's det_thresh (FaceAnalysis.prepare)
USUAL_SCORE = 0.5
_OPENERS = {'onnx': 'OnnxDetector', 'ncnn': 'NcnnDetector', 'torch': 'open_torch_detector'}


class Detector(Protocol):
    """A picture, uint8 RGB ``(H, W, 3)``, to its faces, best first."""

    name: str

    def __call__(self, picture: np.ndarray) -> Faces: ...


class DetectorNet(Protocol):
    """What a runtime provides: it turns uint8 RGB pictures ``(N, H, W, 3)``, whose sides are multiples of the last of
    ``strides``, into InsightFace's outputs, each ``(N, K, C)``: scores (C = 1) of every stride, then boxes (4), then landmarks
    (10).

    ``score`` is the lowest score of a face, as the card of its weights has it (``thresholds``), None when unknown; ``side`` the
    side of the square pictures that a net of fixed input takes, None when it takes any.
    """

    name: str
    strides: tuple[int, ...]
    score: float | None
    side: int | None

    def __call__(self, pictures: np.ndarray) -> list[np.ndarray]: ...


class FaceDetector:
    """A net as a :class:`Detector`.

    Args:
        net: of any runtime.
        size: pictures whose longest side is greater are scaled down to it (``math.inf``: none is); smaller ones are never
            enlarged.
        threshold: lowest score of a face; by default the net's own (:attr:`DetectorNet.score`), or InsightFace's 0.5.

    Raises:
        ValueError: ``size`` is below the net's coarsest stride.
    """

    def __init__(self, net: DetectorNet, size: float = 640, threshold: float | None = None) -> None:
        if size < net.strides[-1]:
            raise ValueError(f'size={size}: {net.name} needs at least {net.strides[-1]} pixels')
        self.net, self.size, self.name = net, min(size, net.side or size), net.name
        self.threshold = next(score for score in (threshold, net.score, USUAL_SCORE) if score is not None)

    def __call__(self, picture: np.ndarray) -> Faces:
        """Faces of one picture uint8 RGB ``(H, W, 3)``, best first, in its own pixels; boxes may reach over the border.

        Raises:
            FaceError: anything else, in which no face would be found.
        """
        if not (isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3 and picture.size
                and picture.shape[2] == 3):
            given = f'{picture.dtype} {picture.shape}' if isinstance(picture, np.ndarray) else type(picture).__name__
            raise FaceError(f'{self.name}: expected a picture, uint8 RGB (H, W, 3), got {given}; '
                            'zoo.pipeline.pictures.read_picture makes one of a file or of encoded bytes')
        padded, factors = fit(picture, self.size, self.net.side or self.net.strides[-1])
        faces = candidates(self.net, padded, self.threshold)
        return faces[suppress(faces.boxes, faces.scores)].scaled(1 / factors)


def candidates(net: DetectorNet, picture: np.ndarray, threshold: float) -> Faces:
    """Faces above a score in one picture ``(H, W, 3)`` as a net takes it, each as often as the net finds it."""
    outputs = [output[0] for output in net(picture[None])]
    return Faces(*decode(outputs, picture.shape[:2], net.strides, threshold))


def open_detector(model: str | os.PathLike, threads: int = 0, size: float = 640, threshold: float | None = None, **options
                  ) -> FaceDetector:
    """Open a detector with the runtime that its file asks for.

    Args:
        model: a zoo name (``retinaface_mnet025``: torch), ``.onnx`` (onnxruntime), ``.param`` or a folder with one (NCNN),
            ``.safetensors``/``.pth`` (torch).
        threads: 0 leaves the choice to the runtime.
        size, threshold: see :class:`FaceDetector`.
        options: passed to the runtime.

    Raises:
        FileNotFoundError, ValueError, KeyError: nothing can be opened under that name; the message says why.
    """
    net = runtime_of(model, _OPENERS)(model, threads=threads, **options)
    return FaceDetector(net, size, threshold)
