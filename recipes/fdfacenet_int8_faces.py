"""Quantisation-aware fine-tuning of FDFaceNet's bundled weights, or of others (``init``), in a tenth of the training."""

from recipes.fdfacenet_kd_faces import config as trained

config = dict(trained, init='fdfacenet', quantise=True, num_epoch=4, warmup_epoch=0.2, lr=2e-4, weight_decay=0.0, compile=False)
