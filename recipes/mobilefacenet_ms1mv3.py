"""MobileFaceNet on MS1MV3: the recipe that InsightFace has for its `mbf` (8 processes of 128). That network has twice the
channels and no expansion in most bottlenecks, so that its published figures are not those of this one.
"""

config = dict(
    network='mobilefacenet',
    embedding_size=512,
    margin_list=(1.0, 0.5, 0.0),
    rec='ms1m-retinaface-t1',
    num_classes=93431,
    num_image=5179510,
    val_targets=['lfw', 'cfp_fp', 'agedb_30'],
    num_epoch=40,
    warmup_epoch=0,
    batch_size=128,
    optimizer='sgd',
    lr=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    schedule='poly',
    fp16=True,
    output=None,
)
