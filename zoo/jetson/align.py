"""Five-point similarity alignment to the ArcFace template: the one definition used wherever a face is cropped."""

import numpy as np

__all__ = ['TEMPLATE', 'align', 'map_points', 'similarity_transform', 'template']

# insightface/utils/face_align.py: left eye, right eye, nose, left and right mouth corner (image-left first), (x, y) at 112
TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
                    np.float32)

_WARPED = 32766  # pixels a side that OpenCV 4 can warp


def template(size: int) -> np.ndarray:
    """The five template points float32 ``(5, 2)`` for crops of ``size`` pixels.

    Multiples of 112, and 96 (Xiao et al.), scale the template; multiples of 128 follow InsightFace: 8 pixels more to each side.

    Raises:
        ValueError: no template is defined for the size.
    """
    if (size > 0 and size % 112 == 0) or size == 96:
        return TEMPLATE * (size / 112)
    if size > 0 and size % 128 == 0:
        return (TEMPLATE + np.float32([8, 0])) * (size / 128)
    raise ValueError(f'no alignment template for {size}-pixel crops; use 96, or a multiple of 112 or 128')


def similarity_transform(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares similarity (Umeyama 1991) that maps ``points`` ``(5, 2)`` to ``target``, as a ``(2, 3)`` matrix.

    Raises:
        ValueError: the points coincide or are not finite.
    """
    points, target = np.asarray(points, np.float64), np.asarray(target, np.float64)
    centre, target_centre = points.mean(0), target.mean(0)
    a, b = points - centre, target - target_centre
    variance = np.square(a).sum()
    if not np.isfinite(points).all() or variance < 1e-9:
        raise ValueError(f'landmarks {points.round(2).tolist()} do not span a face')
    # in the plane the rotation has a closed form: no SVD, no reflection to exclude
    cosine = (a * b).sum() / variance
    sine = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / variance
    linear = np.array([[cosine, -sine], [sine, cosine]])
    return np.hstack([linear, (target_centre - linear @ centre)[:, None]])


def map_points(landmarks: np.ndarray) -> np.ndarray:
    """Where the landmarks ``(F, 5, 2)`` of a picture lie in the 112-pixel crops of :func:`align`, float64 ``(F, 5, 2)``.

    Raises:
        ValueError: landmarks that do not span a face.
    """
    faces = np.asarray(landmarks, np.float64).reshape(-1, 5, 2)
    matrices = [similarity_transform(points, TEMPLATE) for points in faces]
    return np.array([points @ m[:, :2].T + m[:, 2] for points, m in zip(faces, matrices)]).reshape(-1, 5, 2)


def align(image: np.ndarray, landmarks: np.ndarray, size: int = 112) -> np.ndarray:
    """Crops of the faces with the given landmarks.

    Args:
        image: uint8 RGB (or BGR, the order is kept) ``(H, W, 3)``.
        landmarks: ``(F, 5, 2)`` points (x, y) in pixels, image-left first.

    Returns:
        uint8 ``(F, size, size, 3)``; parts outside the image are black.

    Raises:
        ValueError: there is no template for the size, or landmarks that do not span a face.
    """
    target = template(size)
    crops = [_crop(image, similarity_transform(points, target), size) for points in np.asarray(landmarks).reshape(-1, 5, 2)]
    return np.stack(crops) if crops else np.empty((0, size, size, 3), np.uint8)


def _crop(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """``matrix`` applied to the image; to the part that the crop shows where OpenCV 4 would refuse the whole."""
    import cv2
    if max(image.shape[:2]) > _WARPED:
        linear, shift = matrix[:, :2], matrix[:, 2:]
        corners = np.linalg.solve(linear, np.array([[0, size, 0, size], [0, 0, size, size]]) - shift)
        low = np.clip(np.floor(corners.min(1)).astype(int) - 2, 0, np.array(image.shape[1::-1]) - 1)
        high = np.clip(np.ceil(corners.max(1)).astype(int) + 3, low + 1, image.shape[1::-1])
        image, matrix = image[low[1]:high[1], low[0]:high[0]], np.hstack([linear, shift + linear @ low[:, None]])
    return cv2.warpAffine(image, matrix, (size, size), borderValue=0.0)
