"""Xiao's MobileFaceNet with ECA on CASIA-WebFace, 96x96: the recipe of paper 004 (500 epochs, batch 32, lr 0.1 falling to
1e-4: here in a line, to 0). Momentum, weight decay, margin and scale are not printed: InsightFace's. Its trainer is fixed to
112x112: `facezoo train` only.
"""

config = dict(
    network='mobilefacenet96_eca',
    embedding_size=128,
    margin_list=(1.0, 0.5, 0.0),
    scale=64.0,
    rec='faces_webface_96x96',
    num_classes=10572,
    num_image=490623,
    val_targets=['lfw', 'cfp_fp', 'agedb_30'],
    num_epoch=500,
    warmup_epoch=0,
    batch_size=32,
    optimizer='sgd',
    lr=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    schedule='poly',
    fp16=True,
    output=None,
)
