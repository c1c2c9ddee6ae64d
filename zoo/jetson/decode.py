"""The arithmetic around a detector of InsightFace's output contract: scaling, decoding, suppression."""

import numpy as np

__all__ = ['OVERLAP', 'central_face', 'decode', 'fit', 'intersection_over_union', 'suppress', 'tenths']

OVERLAP = 0.4  # intersection over union above which the weaker of two boxes is dropped


def fit(picture: np.ndarray, size: float, multiple: int):
    """Scale a picture down to a longest side of ``size`` and fill right and bottom with black to multiples of ``multiple``.

    Returns:
        The picture and the factors in x and y that it was scaled by. As each side is rounded to whole pixels, at least one,
        they differ a little, and in a very long and thin picture much.
    """
    import cv2  # here, for boards that only embed aligned faces
    height, width = original = picture.shape[:2]
    factor = min(1.0, size / max(height, width))
    if factor < 1:
        target = max(1, round(width * factor)), max(1, round(height * factor))
        picture = cv2.resize(picture, target, interpolation=cv2.INTER_LINEAR if factor > 0.5 else cv2.INTER_AREA)
    height, width = picture.shape[:2]
    factors = np.float32([width / original[1], height / original[0]])
    bottom, right = -height % multiple, -width % multiple
    if bottom or right:
        picture = cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_CONSTANT)
    return picture, factors


def decode(outputs, shape, strides, threshold: float):
    """Candidates above a score from the outputs for one picture of ``shape`` (height, width).

    Args:
        outputs: ``(K, C)`` each: scores (C = 1) of every stride, then boxes (4), then landmarks (10), in strides.

    Returns:
        Boxes float32 ``(F, 4)`` x1, y1, x2, y2, landmarks float32 ``(F, 5, 2)`` and scores float32 ``(F,)``, in pixels.
    """
    levels, parts = len(strides), []
    for scores, boxes, points, stride in zip(outputs, outputs[levels:], outputs[2 * levels:], strides):
        scores = scores.reshape(-1)
        rows = np.flatnonzero(scores >= threshold)
        columns = -(-shape[1] // stride)
        cell = rows // (len(scores) // (columns * -(-shape[0] // stride)))
        corner = np.stack([cell % columns, cell // columns], 1).astype(np.float32)
        distance = boxes[rows]
        found = np.concatenate([corner - distance[:, :2], corner + distance[:, 2:]], 1) * stride
        parts.append((found, (corner[:, None] + points[rows].reshape(-1, 5, 2)) * stride, scores[rows]))
    return tuple(np.concatenate(part) for part in zip(*parts))


def suppress(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Greedy non-maximum suppression: rows of the boxes that stay, best first, int64 ``(F,)``."""
    import cv2
    corner_size = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    # tuples and plain numbers: OpenCV 4.1 (JetPack 4) takes nothing else
    kept = cv2.dnn.NMSBoxes([tuple(row) for row in corner_size.tolist()], scores.tolist(), 0.0, OVERLAP)
    return np.asarray(kept, np.int64).reshape(-1)


def intersection_over_union(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of every box of ``first (F, 4)`` with every one of ``second (S, 4)``: ``(F, S)``; 0 where both are empty."""
    low, high = np.maximum(first[:, None, :2], second[None, :, :2]), np.minimum(first[:, None, 2:4], second[None, :, 2:4])
    shared = np.prod((high - low).clip(0), axis=2)
    areas = [np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1) for boxes in (first, second)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)


def central_face(boxes: np.ndarray, shape) -> int:
    """Row of the face that a picture of ``shape`` is of: large and near the middle (InsightFace's rule: area minus twice the
    squared distance)."""
    middles = (boxes[:, :2] + boxes[:, 2:4]) / 2 - np.array(shape[1::-1]) / 2
    return int(np.argmax(np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1) - 2 * np.square(middles).sum(1)))


def tenths(pixels: np.ndarray) -> list:
    """Coordinates of any shape for JSON, to a tenth of a pixel (float32 itself would be written as 230.10000610351562)."""
    return pixels.astype(float).round(1).tolist()
