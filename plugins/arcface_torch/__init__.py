"""InsightFace's ``arcface_torch`` scripts, unmodified, with facezoo's backbones and recipes.

    python -m plugins.arcface_torch train_v2.py configs/fdfacenet_ms1mv3

The checkout is never written to.
"""
