"""ROC curves with scikit-learn's points, and TAR read off as InsightFace does."""

from __future__ import annotations

import numpy as np

__all__ = ['roc_points', 'tar_nearest']


def roc_points(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true accept rates ``(K,)``, ascending, from (0, 0) on.

    As ``sklearn.metrics.roc_curve``: one point a distinct score, without those in the middle of a straight run. That
    matters, because :func:`tar_nearest` chooses among the points that are left.

    Raises:
        ValueError: only genuine or only impostor pairs.
    """
    same = np.asarray(same, bool)
    if same.all() or not same.any():
        raise ValueError(f'{len(same)} pairs, {same.sum()} of them of one person: a ROC curve needs both kinds')
    order = np.argsort(scores, kind='stable')[::-1]
    ordered = scores[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    true = np.cumsum(same[order])[last]
    false = 1 + last - true
    if len(last) > 2:
        corner = np.r_[True, np.diff(false, 2).astype(bool) | np.diff(true, 2).astype(bool), True]
        true, false = true[corner], false[corner]
    return np.r_[0, false] / (~same).sum(), np.r_[0, true] / same.sum()


def tar_nearest(fpr: np.ndarray, tpr: np.ndarray, far: float) -> float:
    """TAR at the point whose FAR is nearest to ``far`` (it may be above it), the highest one of equally near points."""
    return float(tpr[::-1][np.argmin(np.abs(fpr[::-1] - far))])
