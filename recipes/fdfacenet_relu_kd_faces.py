"""FDFaceNet with ReLU instead of PReLU: 8-bit convolutions then hand integers to each other on NCNN and TensorRT."""

from recipes.fdfacenet_kd_faces import config as prelu

config = dict(prelu, network_args=dict(act='relu'))
