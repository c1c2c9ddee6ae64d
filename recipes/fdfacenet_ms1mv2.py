"""FDFaceNet on MS1MV2: the strategy of paper 001 (batch 256 in total, x0.1 after 160k, 210k, 250k and 290k steps, given
here in epochs; the paper does not give the margin, the scale and the end).
"""

config = dict(
    network='fdfacenet',
    embedding_size=512,
    margin_list=(1.0, 0.5, 0.0),
    rec='faces_emore',
    num_classes=85742,
    num_image=5822653,
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
