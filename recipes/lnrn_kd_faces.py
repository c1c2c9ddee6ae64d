"""LNRN distilled as FDFaceNet was, in fewer epochs: the recipe of the bundled ``lnrn`` weights."""

from recipes.fdfacenet_kd_faces import config as fdfacenet

config = dict(fdfacenet, network='lnrn', num_epoch=6)
