"""Invented persons whose embeddings are spread like real ones: what ``benchmarks/gallery.py`` searches.

Nobody has a million enrolled persons to give away. The model, fitted to real embeddings of unit length:

- an identity is a centre, drawn from a mixture of Gaussians. The covariance between identities comes from the products of two
  *different* pictures of an identity, so that the spread of pictures does not count as one of identities; the components are
  spherical k-means clusters of the identities' mean pictures, scaled along the covariance's axes to its variances; each has
  its own covariance, shrunk by a tenth to the pooled one;
- a picture is the centre plus a Gaussian residual with the covariance of pictures around their identity's mean, of identities
  that the network was not trained on, times a log-normal factor (pictures differ in quality); then scaled to unit length.

:func:`realism` sets the scores that come out beside real ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plugins.preprocess import l2_normalise

__all__ = ['Population', 'fit', 'realism']

COMPONENTS, AXES, POOLED, QUALITY = 64, 160, 0.1, 0.4  # AXES: leading ones, that are clustered; QUALITY: sigma of the logarithm
QUANTILES = (0.5, 0.9, 0.99, 0.999, 0.9999)


@dataclass(frozen=True)
class Population:
    """Where centres and pictures are drawn from.

    Attributes:
        weights ``(K,)``, means ``(K, D)``, factors ``(K, D, D)``: a centre of component k is
            ``means[k] + normal @ factors[k]``.
        residual: ``(D, D)``, a picture is its centre plus ``normal @ residual`` times the factor of its quality.
    """

    weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray
    residual: np.ndarray

    def centres(self, count: int, rng: np.random.Generator) -> np.ndarray:
        component = rng.choice(len(self.weights), count, p=self.weights)
        centres = rng.standard_normal((count, self.means.shape[1]), np.float32)
        for k in np.unique(component):
            centres[component == k] = self.means[k] + centres[component == k] @ self.factors[k]
        return centres

    def pictures(self, centres: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One picture of each centre, unit length."""
        quality = np.exp(QUALITY * rng.standard_normal((len(centres), 1), np.float32))
        return l2_normalise(centres + quality * (rng.standard_normal(centres.shape, np.float32) @ self.residual))

    def templates(self, centres: np.ndarray, pictures: int, rng: np.random.Generator) -> np.ndarray:
        """Unit-length mean of some pictures of each centre, as a gallery makes it."""
        return l2_normalise(sum(self.pictures(centres, rng) for _ in range(pictures)))


def fit(rows: np.ndarray, owner: np.ndarray, held_rows: np.ndarray, held_owner: np.ndarray) -> Population:
    """The population that embeddings ``rows (N, D)`` of the identities ``owner (N,)`` come from; ``held_rows`` are those of
    identities that the network was not trained on."""
    import faiss
    first, second = pairs_of(owner)
    both = (rows[first] + rows[second]) / 2
    mean = both.mean(0)
    product = (rows[first] - mean).T @ (rows[second] - mean) / len(both)
    values, axes = np.linalg.eigh((product + product.T) / 2)
    values, axes = values[::-1].clip(0), axes[:, ::-1]
    points = (both - mean) @ axes
    points *= np.sqrt(values / np.square(points).mean(0))
    leading = np.ascontiguousarray(l2_normalise(points[:, :AXES]), np.float32)
    clusters = faiss.Kmeans(AXES, COMPONENTS, niter=25, seed=0, spherical=True)
    clusters.train(leading)
    member = clusters.index.search(leading, 1)[1][:, 0]
    means = np.stack([points[member == k].mean(0) for k in range(COMPONENTS)])
    pooled = np.cov((points - means[member]).T)
    factors = [_factor((1 - POOLED) * np.cov(points[member == k].T) + POOLED * pooled) @ axes.T for k in range(COMPONENTS)]
    return Population(np.bincount(member) / len(member), (mean + means @ axes.T).astype(np.float32),
                      np.stack(factors).astype(np.float32), _factor(np.cov(residuals_of(held_rows, held_owner).T)))


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Turns independent normal rows into rows of that covariance."""
    values, axes = np.linalg.eigh(covariance)
    return (np.sqrt(values.clip(0))[:, None] * axes.T).astype(np.float32)


def residuals_of(rows: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Pictures minus the mean of their identity, of identities with at least two."""
    _, number, count = np.unique(owner, return_inverse=True, return_counts=True)
    sums = np.zeros((len(count), rows.shape[1]))
    np.add.at(sums, number, rows)
    own = count[number]
    kept = own > 1
    scale = np.sqrt(own[kept] / (own[kept] - 1))[:, None]
    return ((rows[kept] - sums[number[kept]] / own[kept, None]) * scale).astype(np.float32)


def pairs_of(owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two pictures of each identity that has them."""
    order = np.argsort(owner, kind='stable')
    _, begin, count = np.unique(owner[order], return_index=True, return_counts=True)
    begin = begin[count > 1]
    return order[begin], order[begin + 1]


def realism(population: Population, rows: np.ndarray, owner: np.ndarray) -> dict:
    """Scores between pictures of held-out real identities beside those of as many invented ones.

    ``impostor``: quantiles over pairs of different identities; ``nearest``: of each picture's most similar other identity;
    ``genuine``: of two pictures of one identity.
    """
    rng = np.random.default_rng(1)
    first, second = pairs_of(owner)
    centres = population.centres(len(first), rng)
    found = {}
    for name, (a, b) in {'real': (rows[first], rows[second]),
                         'invented': (population.pictures(centres, rng), population.pictures(centres, rng))}.items():
        table = (a @ b.T).astype(np.float64)
        genuine = np.diag(table).copy()
        impostor = table[~np.eye(len(table), dtype=bool)]
        np.fill_diagonal(table, -1)
        found[name] = {'identities': len(table), 'impostor_mean': round(float(impostor.mean()), 4),
                       'impostor_std': round(float(impostor.std()), 4), 'impostor': _quantiles(impostor),
                       'nearest': _quantiles(table.max(1), QUANTILES[:3]),
                       'genuine': _quantiles(genuine, (0.01, 0.1, 0.5, 0.9))}
    return found


def _quantiles(values: np.ndarray, at: tuple[float, ...] = QUANTILES) -> dict[str, float]:
    return {f'{q:g}': round(float(v), 4) for q, v in zip(at, np.quantile(values, at), strict=True)}
