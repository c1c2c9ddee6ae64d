"""LNRN on CASIA-WebFace: the recipe of paper 000, on the 490 623 images of the public .rec (the paper kept 453 580)."""

config = dict(
    network='lnrn',
    embedding_size=512,
    margin_list=(1.0, 0.5, 0.0),
    scale=32.0,
    rec='faces_webface_112x112',
    num_classes=10572,
    num_image=490623,
    val_targets=['lfw', 'cfp_fp', 'agedb_30'],
    num_epoch=18,
    warmup_epoch=0,
    batch_size=128,
    optimizer='sgd',
    lr=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    schedule='step',
    milestones=[6, 11, 16],
    fp16=True,
    output=None,
)
