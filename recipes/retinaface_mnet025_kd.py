"""RetinaFace MobileNetV1 x0.25 distilled from the public one on unlabelled pictures, from random weights.

The bundled weights began from the public ones, at lower rates and with other weights of the losses: their card has the values.
"""

config = dict(
    task='detection',
    network='retinaface_mnet025',
    pictures='pictures',
    teacher='retinaface_mnet025.pth',
    num_epoch=80,
    warmup_epoch=1,
    batch_size=8,
    view_size=256,
    optimizer='adamw',
    lr=0.002,
    weight_decay=0.01,
    schedule='cosine',
    box_weight=2.0,
    landmark_weight=2.0,
    ema=0.999,
    precision='auto',
)
