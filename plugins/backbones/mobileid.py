"""MobileID: three small convolutions and three fully connected layers, distilled from DeepID2's neurons.

Paper: Luo et al., "Face Model Compression by Distilling Knowledge from Neurons", AAAI 2016; the authors' published
``mobile_id_gallery.prototxt`` gives the layers, but not the input. DeepID2's 55x47 RGB window is assumed; it makes 1.18 M
parameters (1.0 M is printed). The net still takes a 112x112 aligned face, which it halves before it cuts the window out.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from plugins.backbones._base import Backbone, conv_out, scale_channels
from plugins.registry import register_backbone

HIDDEN = 500
WINDOW = (55, 47)  # DeepID2's input (height, width), cut out of the halved 56x56 face


class MobileID(Backbone):
    """Conv 4x4, 3x3, 3x3 with 64 channels, ReLU and 2x2 pooling, then FC 500, 500 and the features (ReLU after each).

    Args:
        width: multiplies channels and hidden layers.
    """

    def __init__(self, width: float = 1.0, num_features: int = 422, input_size: int | tuple[int, int] = 112,
                 dropout: float = 0.0, fp16: bool = False) -> None:
        super().__init__(num_features, input_size, fp16)
        channels, hidden = scale_channels(64, width), scale_channels(HIDDEN, width)
        self.window = tuple(side // 2 * part // 56 for side, part in zip(self.input_size, WINDOW, strict=True))
        layers: list[nn.Module] = []
        size, last = self.window, 3
        for kernel in (4, 3, 3):
            layers += [nn.Conv2d(last, channels, kernel), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
            size, last = conv_out(conv_out(size, (1,), kernel, 0), (2,), 2, 0), channels
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Flatten(1), nn.Linear(channels * size[0] * size[1], hidden), nn.ReLU(inplace=True),
                                  nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout),
                                  nn.Linear(hidden, num_features), nn.ReLU(inplace=True))
        self.init_weights()

    def forward_features(self, x: Tensor) -> Tensor:
        halved = F.avg_pool2d(x, 2)
        left = (halved.shape[3] - self.window[1]) // 2
        return self.features(halved[:, :, :self.window[0], left:left + self.window[1]])


@register_backbone
def mobileid(**kwargs) -> MobileID:
    """MobileID: 422 features (the neurons that its authors selected)."""
    return MobileID(**kwargs)
