"""FDFaceNet on MS1MV3: the strategy of paper 001, which has MS1MV2 (see fdfacenet_ms1mv2)."""

config = dict(
    network='fdfacenet',
    embedding_size=512,
    margin_list=(1.0, 0.5, 0.0),
    rec='ms1m-retinaface-t1',
    num_classes=93431,
    num_image=5179510,
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
