"""Paper 003's low-quality distillation: a clean-face CBAM teacher's labels and attention for a student on degraded faces.

First train the teacher (`facezoo train cbam_resnext100_casia`, or this network on any set), then name its output folder here.
Epochs and learning rate are the paper's. Temperature, the hard term, optimiser, batch, scale and margin are not printed there:
the values are ours. So is the weight of the attention (eq. 12 adds the three losses as they are, the text calls it a weighted
mean): its maps are of positive numbers and never far apart. ArcFace is on (margin_weight), so the hard label term, which is the
same loss again, is off.
"""

config = dict(
    network='cbam_resnext100',
    rec='faces',
    val_targets=['val'],
    num_epoch=20,
    batch_size=128,
    lr=0.01,
    schedule='step',
    milestones=(5, 10, 15),
    margin_list=(1.0, 0.5, 0.0),
    scale=32.0,
    teachers=['runs/cbam_teacher'],
    distill=dict(label=1.0, attention=5.0),
    label_temperature=4.0,
    label_hard=0.0,
    degrade=dict(factors=(2, 4, 8)),
    precision='auto',
)
