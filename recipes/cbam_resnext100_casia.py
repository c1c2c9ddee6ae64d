"""The teacher of paper 003 on CASIA-WebFace: lr 0.01, x0.1 every 5 of 20 epochs (optimiser, batch, margin and
scale are not given).
"""

config = dict(
    network='cbam_resnext100',
    embedding_size=512,
    margin_list=(1.0, 0.5, 0.0),
    scale=32.0,
    rec='faces_webface_112x112',
    num_classes=10572,
    num_image=490623,
    val_targets=['lfw', 'cfp_fp', 'agedb_30'],
    num_epoch=20,
    warmup_epoch=0,
    batch_size=128,
    optimizer='sgd',
    lr=0.01,
    momentum=0.9,
    weight_decay=5e-4,
    schedule='step',
    milestones=[5, 10, 15],
    fp16=True,
    output=None,
)
