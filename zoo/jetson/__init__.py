"""What runs on the board: Python 3.6, numpy and TensorRT only. Bundles carry a copy of this package."""
