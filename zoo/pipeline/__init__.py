"""From pictures to names: detect, align, recognise, compare with known persons. Runs without torch.

    >>> from zoo.pipeline import open_gallery, open_pipeline, recognise, threshold_of
    >>> pipeline = open_pipeline('fdfacenet.onnx', 'detector.onnx')
    >>> with open_gallery('gallery.npz', pipeline.contract()) as gallery:
    ...     scene = recognise(pipeline('party.jpg'), gallery, threshold_of(pipeline.embedder, '1e-4'))
    >>> [(face.name, face.box) for face in scene.faces]

Importing the package imports nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.lazy import lazy_names

if TYPE_CHECKING:
    from zoo.pipeline.galleries import open_gallery
    from zoo.pipeline.gallery import Gallery
    from zoo.pipeline.recogniser import Pipeline, open_pipeline, recognise
    from zoo.pipeline.threshold import threshold_of

__all__ = ['Gallery', 'Pipeline', 'open_gallery', 'open_pipeline', 'recognise', 'threshold_of']

__getattr__ = lazy_names(globals(), {
    'Gallery': 'zoo.pipeline.gallery', 'Pipeline': 'zoo.pipeline.recogniser', 'open_gallery': 'zoo.pipeline.galleries',
    'open_pipeline': 'zoo.pipeline.recogniser', 'recognise': 'zoo.pipeline.recogniser',
    'threshold_of': 'zoo.pipeline.threshold'})
