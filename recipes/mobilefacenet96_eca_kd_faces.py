"""Xiao's MobileFaceNet with ECA distilled as FDFaceNet was: its teachers see 112 pixels, it sees the same crop at 96."""

from recipes.fdfacenet_kd_faces import config as fdfacenet

config = dict(fdfacenet, network='mobilefacenet96_eca', embedding_size=128, num_epoch=8)
