"""Text in pictures, in any script that a font of this machine has."""

from __future__ import annotations

import math
import unicodedata
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

__all__ = ['FONTS', 'letter', 'readable']

# after Pillow's own, which has hardly more than ASCII and is the same everywhere; Pillow finds them in the system's folders
FONTS = ('DejaVuSans.ttf', 'NotoSans-Regular.ttf', 'LiberationSans-Regular.ttf', 'NotoSansCJK-Regular.ttc',
         'DroidSansFallbackFull.ttf', 'wqy-microhei.ttc', 'Arial Unicode.ttf', 'arial.ttf', 'Arial.ttf', 'msyh.ttc',
         'malgun.ttf')
_NOWHERE = '\U0010ffff'  # a code that stands for no character: drawn as a font draws what it lacks


def letter(text: str, size: int, ground: tuple[int, int, int], ink: tuple[int, int, int] = (255, 255, 255),
           width: int | None = None) -> np.ndarray:
    """A plate with one line of text, uint8 RGB ``(H, W, 3)``.

    Args:
        size: of the font, in pixels.
        ground, ink: colours, RGB.
        width: the most that the plate may take, in pixels; a longer text loses its end.
    """
    from PIL import Image, ImageDraw
    font = _font(frozenset(text), size)
    text = text if font else readable(text)
    font, pad = font or _opened(None, size), max(2, size // 5)
    kept = len(text)
    while width and kept and _span(font, text)[1] + 2 * pad > width:
        kept -= 1
        text = text[:kept] + '...'
    left, wide = _span(font, text)
    ascent, descent = font.getmetrics()
    image = Image.new('RGB', (wide + 2 * pad, ascent + descent + pad), ground)
    ImageDraw.Draw(image).text((pad - left, pad // 2), text, font=font, fill=ink)
    return np.asarray(image)


def readable(text: str) -> str:
    """The text in what Pillow's own font has: accents left out, and a question mark for what has no such form."""
    return ''.join(sign if _has(None, sign) else
                   ''.join(part for part in unicodedata.normalize('NFKD', sign) if _has(None, part)) or '?' for sign in text)


def _span(font: FreeTypeFont, text: str) -> tuple[int, int]:
    """Where the ink begins, at most 0, and its width from there, in pixels."""
    left, _, right, _ = font.getbbox(text)
    left = min(math.floor(left), 0)
    return left, math.ceil(right) - left


@lru_cache(1024)
def _font(signs: frozenset[str], size: int) -> FreeTypeFont | None:
    """The first font that has all the characters; None when none has."""
    for name in (None, *FONTS):
        if _opened(name, 16) and all(_has(name, sign) for sign in signs):
            return _opened(name, size)
    return None


@cache
def _has(name: str | None, sign: str) -> bool:
    """Whether a font has a character; spaces draw nothing in any."""
    if sign.isspace():
        return sign == ' '
    font = _opened(name, 16)
    found, missing = font.getmask(sign), font.getmask(_NOWHERE)
    return found.size != missing.size or bytes(found) != bytes(missing)


@lru_cache(64)
def _opened(name: str | None, size: int) -> FreeTypeFont | None:
    """A font of the system, Pillow's own for None; None when it is not there."""
    from PIL import ImageFont
    try:
        return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    except OSError:
        return None
