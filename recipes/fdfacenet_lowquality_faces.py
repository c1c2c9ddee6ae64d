"""FDFaceNet for distant and blurred faces: the bundled weights taught on with degraded faces (tag ``lowquality``).

The teachers see each face as it is, the student sees it x1, x2, x4 or x8 smaller and blurred (paper 003's degradation), and
aligned by landmarks that are off as in ``fdfacenet_misaligned_faces``.
"""

from recipes.fdfacenet_misaligned_faces import config as sharp

config = dict(
    sharp,
    init='fdfacenet',
    num_epoch=4,
    lr=0.0005,
    degrade=dict(sharp['degrade'], factors=(1, 2, 4, 8)),
)
