"""What facezoo plugs into InsightFace at training time: backbones, losses, data. Knows nothing of ``zoo`` or ``recipes``."""
