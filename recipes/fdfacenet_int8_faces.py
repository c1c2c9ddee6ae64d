"""Quantisation-aware fine-tuning of trained FDFaceNet weights: give them as ``init``. A tenth of the training's length."""

from recipes.fdfacenet_kd_faces import config as trained

config = dict(trained, quantise=True, num_epoch=4, warmup_epoch=0.2, lr=2e-4, weight_decay=0.0, compile=False)
