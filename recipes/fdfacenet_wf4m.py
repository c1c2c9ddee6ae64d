"""FDFaceNet on WebFace4M: the strategy of paper 001 in epochs."""

config = dict(
    network='fdfacenet',
    embedding_size=512,
    margin_list=(1.0, 0.5, 0.0),
    rec='WebFace4M',
    num_classes=205990,
    num_image=4235242,
    val_targets=['lfw', 'cfp_fp', 'agedb_30'],
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
    output=None,
)
