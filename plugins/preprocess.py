"""The one definition of what a recogniser eats, used by training, evaluation, export and the pipeline.

It travels in every card and in every exported artefact's sidecar. NumPy is imported where it computes, so that cards can be
listed at once.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

__all__ = ['PICTURE_SUFFIXES', 'FaceError', 'PictureNorm', 'Preprocess', 'decode_image', 'encode_image', 'l2_normalise']

# of the files that count as pictures where a folder or an archive is searched for them
PICTURE_SUFFIXES = frozenset(
    {'.avif', '.bmp', '.gif', '.jp2', '.jpe', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp'})


class FaceError(ValueError):
    """An image is damaged or has the wrong shape."""


@dataclass(frozen=True)
class Preprocess:
    """``(pixel - mean) / std`` of aligned ``input_size`` x ``input_size`` faces.

    Attributes:
        input_size: side of the square crop in pixels.
        mean: subtracted from 0..255 pixels.
        std: divisor; ``(127.5, 127.5)`` maps to [-1, 1], InsightFace's convention.
        colour: channel order the net expects, ``RGB`` or ``BGR``.
        alignment: template of the 5-point similarity transform that made the crop.

    Raises:
        ValueError: another colour order, or a divisor that is not above 0.
    """

    input_size: int = 112
    mean: float = 127.5
    std: float = 127.5
    colour: str = 'RGB'
    alignment: str = 'arcface-112'

    def __post_init__(self) -> None:
        _check(self.colour, self.std)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 RGB ``(N, S, S, 3)`` to float32 ``(N, 3, S, S)``.

        Raises:
            FaceError: no array, or of wrong dtype or size.
        """
        import numpy as np
        size = self.input_size
        array = isinstance(images, np.ndarray)
        if not array or images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
            given = f'{images.dtype} {images.shape}' if array else type(images).__name__
            raise FaceError(f'expected uint8 RGB faces of shape (N, {size}, {size}, 3), got {given}; align the faces first')
        if self.colour == 'BGR':
            images = images[..., ::-1]
        scaled = images.transpose(0, 3, 1, 2).astype(np.float32, order='C')
        scaled -= self.mean
        scaled /= self.std
        return scaled

    def tensor(self, images: Tensor) -> Tensor:
        """The same of a uint8 PyTorch tensor, on its device; the shape is not checked."""
        images = images.flip(3) if self.colour == 'BGR' else images
        return images.permute(0, 3, 1, 2).float().sub_(self.mean).div_(self.std)

    def to_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class PictureNorm:
    """``(pixel - mean) / std`` of whole pictures: what a detector eats. The default is InsightFace's convention for detectors.

    Attributes:
        mean: subtracted from 0..255 pixels, ``(R, G, B)`` whatever ``colour`` is.
        std: divisor.
        colour: channel order the net expects, ``RGB`` or ``BGR``.

    Raises:
        ValueError: another colour order, or a divisor that is not above 0.
    """

    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: float = 128.0
    colour: str = 'RGB'

    def __post_init__(self) -> None:
        _check(self.colour, self.std)

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """uint8 RGB ``(N, H, W, 3)`` to float32 ``(N, 3, H, W)``."""
        import numpy as np
        n, height, width, _ = pictures.shape
        planes = np.empty((n, 3, height, width), np.float32)  # channel by channel: no temporary of the picture's size
        for index, channel in enumerate((2, 1, 0) if self.colour == 'BGR' else (0, 1, 2)):
            np.subtract(pictures[..., channel], np.float32(self.mean[channel]), out=planes[:, index])
        planes *= np.float32(1 / self.std)
        return planes

    def tensor(self, pictures: Tensor) -> Tensor:
        """The same of a uint8 PyTorch tensor, on its device."""
        x = pictures.float()
        x = (x - x.new_tensor(self.mean)) / self.std
        return (x.flip(3) if self.colour == 'BGR' else x).permute(0, 3, 1, 2)

    def to_dict(self) -> dict:
        return asdict(self)


def _check(colour: str, std: float) -> None:
    if colour not in ('RGB', 'BGR'):  # 'bgr' would have passed for RGB
        raise ValueError(f'colour={colour!r}: must be RGB or BGR')
    if not std > 0:
        raise ValueError(f'std={std!r}: must be above 0')


def l2_normalise(embeddings: np.ndarray) -> np.ndarray:
    """Rows of ``(N, D)`` scaled to unit length (an all-zero row stays zero)."""
    import numpy as np
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(norms, np.finfo(np.float32).tiny)


def decode_image(data: bytes, name: str = 'image', upright: bool = False, reduced: int = 1) -> np.ndarray:
    """Encoded image to uint8 RGB ``(H, W, 3)``.

    Args:
        upright: apply the EXIF orientation, as photos need it (aligned crops carry none).
        reduced: 2, 4 or 8: so many times smaller, which saves the JPEG decoder work.

    Raises:
        FaceError: not an image, or a damaged one.
    """
    import cv2
    import numpy as np
    if not len(data):
        raise FaceError(f'{name}: empty file')
    orientation = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    size = {1: cv2.IMREAD_COLOR_RGB, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
            8: cv2.IMREAD_REDUCED_COLOR_8}[reduced]  # only the first can be had in RGB
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), size | orientation)
    except cv2.error as error:  # a format that OpenCV knows, with contents that it refuses
        raise FaceError(f'{name}: cannot be decoded ({error.err})') from None
    jpeg_without_end = data[:2] == b'\xff\xd8' and b'\xff\xd9' not in bytes(data[-64:])
    # OpenCV before 5 fills the missing part of a cut JPEG with grey and says nothing; 5 does not say why it gives none
    fault = _fault(data) if image is None or jpeg_without_end else ''
    if 'truncated' in fault.lower():
        raise FaceError(f'{name}: cut short after {len(data)} bytes ({fault}); copy it again')
    if image is None and data[4:8] == b'ftyp' and data[8:12] in (b'heic', b'heix', b'mif1'):
        raise FaceError(f'{name}: HEIC, the format of iPhones, which OpenCV cannot decode; convert it to JPEG')
    if image is None:
        raise FaceError(f'{name}: not an image that OpenCV can decode ({len(data)} bytes, begins {bytes(data[:8])!r})')
    if fault:
        raise FaceError(f'{name}: {fault}')
    return image if reduced == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _fault(data: bytes) -> str:
    """What Pillow finds wrong with a picture; empty when nothing is."""
    from PIL import Image
    try:
        Image.open(io.BytesIO(data)).load()
    except Exception as error:  # of any kind, with damaged bytes
        return str(error)
    return ''


def encode_image(image: np.ndarray, suffix: str = '.jpg', quality: int = 95) -> bytes:
    """Image uint8 RGB ``(H, W, 3)`` as a file of the kind that ``suffix`` names; ``quality`` is JPEG's.

    Raises:
        FaceError: it is too large for such a file.
    """
    import cv2
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == '.jpg' else []
    done, data = cv2.imencode(suffix, image[..., ::-1], options)
    if not done:
        raise FaceError(f'image {image.shape}: cannot be written as {suffix}; a JPEG has at most 65500 pixels a side')
    return data.tobytes()
