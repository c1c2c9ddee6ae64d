"""What runs on the board: Python 3.6, numpy, TensorRT, and OpenCV for pictures. Bundles carry a copy of this package.

Alignment and decoding are here, and not with the pipeline that uses them too, because only here both desk and board can.
"""
