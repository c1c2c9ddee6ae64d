"""A training small enough to compare networks and losses on two CPU cores: ArcFace on 5 000 CelebA crops.

Make the subset with `facezoo data pack faces.zip --out subset --holdout 500 --identities 1000`.
"""

config = dict(
    network='fdfacenet',
    embedding_size=512,
    rec='subset',
    num_epoch=10,
    warmup_epoch=1,
    batch_size=128,
    optimizer='sgd',
    nesterov=True,
    lr=0.1,
    weight_decay=5e-4,
    schedule='cosine',
    margin_list=(1.0, 0.5, 0.0),
    scale=32.0,
    precision='auto',
    compile=True,
    num_workers=1,
)
