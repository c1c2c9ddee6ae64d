"""LNRN distilled as FDFaceNet was, in fewer epochs."""

from recipes.fdfacenet_kd_faces import config as fdfacenet

config = dict(fdfacenet, network='lnrn', num_epoch=6)
