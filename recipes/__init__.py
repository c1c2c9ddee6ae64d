"""How a model is made: flat recipes that InsightFace and facezoo's own trainer read alike."""
