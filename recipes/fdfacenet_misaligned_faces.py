"""FDFaceNet for any detector: the weights of ``fdfacenet_kd_faces`` taught on with crops as other landmarks would give them.

The teachers see each face as it is aligned, the student as landmarks off by 1.5 pixels align it: a little more than the 1.24 by
which the two detectors measured here differ (``results/crop_faults.json``). The recipe of the bundled ``fdfacenet`` weights.
"""

from recipes.fdfacenet_kd_faces import config as aligned

config = dict(
    aligned,
    init='fdfacenet_kd_faces.safetensors',
    num_epoch=9,
    warmup_epoch=0.25,
    lr=0.001,
    degrade=dict(factors=(1,), landmarks=1.5),
)
