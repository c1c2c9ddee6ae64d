"""FDFaceNet on WebFace12M: the strategy of paper 001 in epochs, half of the centres a step (PartialFC)."""

config = dict(
    network='fdfacenet',
    embedding_size=512,
    margin_list=(1.0, 0.5, 0.0),
    rec='WebFace12M',
    num_classes=617970,
    num_image=12720066,
    val_targets=[],
    num_epoch=14,
    warmup_epoch=0,
    batch_size=256,
    optimizer='sgd',
    lr=0.01,
    momentum=0.9,
    weight_decay=5e-4,
    schedule='step',
    milestones=[7.0, 9.25, 11.0, 12.75],
    fp16=True,
    sample_rate=0.5,
    output=None,
)
