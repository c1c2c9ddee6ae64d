"""FDFaceNet distilled from two public recognisers on CelebA crops; ``fdfacenet_misaligned_faces`` goes on from its weights."""

config = dict(
    network='fdfacenet',
    embedding_size=512,
    rec='faces',
    val_targets=['val'],
    num_epoch=40,
    warmup_epoch=0.5,
    batch_size=128,
    optimizer='adamw',
    lr=0.002,
    weight_decay=0.05,
    schedule='cosine',
    margin_weight=0,
    teachers=['edgeface_xs.onnx', 'mobilefacenet_y1'],
    distill=dict(embedding=1.0, relation=10.0),
    views=8,
    augment=dict(flip=0.5, mixup=0.2, rotate=0.6, shift=0.6, light=0.5, saturation=0.5, grey=0.1, lowres=0.2, blur=0.1,
                 noise=0.1, occlude=0.1),
    ema=0.999,
    precision='auto',
    compile=True,
)
