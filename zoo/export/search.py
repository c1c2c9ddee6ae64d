"""Which range method, and which few layers kept in floating point, let an INT8 model keep its embeddings.

Decided on the calibration faces alone: most of them make the histograms, every eighth is held out to judge by. The
verification set that gates the export never chooses anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from plugins.preprocess import Preprocess, l2_normalise
from zoo.export.calibrate import METHODS, MIN_IMAGES, Calibration, CalibrationError, fit_ranges, measure_histograms
from zoo.export.equalise import equalise
from zoo.export.graph import Activations, Graph
from zoo.export.quantize import SCHEMES, layer_snr, macs_in_int8, simulate_int8
from zoo.progress import progress_bar

__all__ = ['Int8Plan', 'Quantiser']

TARGET_COSINE = 0.99
MAX_KEPT = 0.25  # of the layers; more than that is no INT8 model any more
_HELD_OUT, _JUDGES = 8, 64
MIN_FACES = MIN_IMAGES * _HELD_OUT // (_HELD_OUT - 1)
_SNR_FACES = 16


@dataclass(frozen=True)
class Int8Plan:
    """How a graph is quantised for one runtime.

    Attributes:
        scheme: key of :data:`zoo.export.quantize.SCHEMES`.
        calibration: ranges by the chosen method.
        keep: names of layers that stay in floating point, the most harmful first.
        cosine: mean cosine to the FP32 embeddings on held-out calibration faces; ``worst`` the least.
        methods: that cosine by range method, before any layer was kept.
        harm: loss of cosine when one layer alone is in 8 bits, by layer; empty when no search was needed.
        snr: signal-to-noise ratio in dB of each layer's output.
        int8_macs: fraction of the multiply-accumulates in 8 bits.
    """

    scheme: str
    calibration: Calibration
    keep: tuple[str, ...]
    cosine: float
    worst: float
    methods: dict[str, float]
    snr: dict[str, float]
    int8_macs: float
    harm: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict:
        """For the sidecar; the calibration has a file of its own."""
        return {'scheme': self.scheme, 'method': self.calibration.method, 'keep': list(self.keep), 'mean_cosine': self.cosine,
                'min_cosine': self.worst, 'methods': self.methods, 'int8_macs': self.int8_macs, 'snr_db': self.snr,
                'harm': self.harm, 'culprit': self.culprit,
                'calibration_sha256': self.calibration.sha256}

    @property
    def culprit(self) -> str:
        """The layer that lost most, in words."""
        names = {name: loss for name, loss in self.harm.items() if name not in self.keep}
        if names:
            name = max(names, key=names.get)
            return f'{name} (alone it costs {names[name]:.4f} of cosine)'
        name = min(self.snr, key=self.snr.get)
        return f'{name} (signal-to-noise ratio {self.snr[name]:.1f} dB)'


class Quantiser:
    """Measures once, then plans for any runtime.

    Args:
        faces: uint8 RGB ``(N, S, S, 3)`` to calibrate on, at least 36.

    Attributes:
        graph: the equalised graph, which computes what the given one does and is the one to deploy.

    Raises:
        CalibrationError: fewer faces.
    """

    def __init__(self, graph: Graph, faces: np.ndarray, preprocess: Preprocess) -> None:
        if len(faces) < MIN_FACES:
            raise CalibrationError(f'{len(faces)} faces to calibrate on; at least {MIN_FACES} are needed ({MIN_IMAGES} for the '
                                   'ranges, every eighth to judge by), 500 are better')
        held = np.arange(len(faces)) % _HELD_OUT == _HELD_OUT - 1
        self.faces, self.preprocess = faces[~held], preprocess
        self.graph = equalise(graph, self.faces, preprocess)
        self._judges = preprocess(faces[held][:_JUDGES])

    @cached_property
    def histograms(self) -> dict:
        """Of every tensor of :attr:`graph`."""
        return measure_histograms(self.graph, self.faces, self.preprocess)

    @cached_property
    def _reference(self) -> np.ndarray:
        return self._embed(self.graph)

    def _embed(self, graph: Graph) -> np.ndarray:
        runner, batches = Activations(graph, (graph.output,)), np.array_split(self._judges, -(-len(self._judges) // 8))
        return l2_normalise(np.concatenate([dict(runner(x))[graph.output] for x in batches]))

    def cosines(self, model) -> np.ndarray:
        """Cosine of each held-out face's embedding in ``model`` to that of :attr:`graph`."""
        return (self._embed(Graph(model)) * self._reference).sum(1)

    def plan(self, scheme: str, method: str | None = None, target: float = TARGET_COSINE) -> Int8Plan:
        """Quantise for a runtime.

        Args:
            method: of :data:`METHODS`; the one that keeps the embeddings best when not given.
            target: mean cosine to reach by keeping layers in floating point, as long as they are few.
        """
        calibrations = {name: fit_ranges(self.histograms, self.faces, self.preprocess, name)
                        for name in ([method] if method else METHODS)}
        judged = {name: self.cosines(simulate_int8(self.graph, c, SCHEMES[scheme])) for name, c in calibrations.items()}
        best = max(judged, key=lambda name: judged[name].mean())
        calibration, cosines, keep, harm = calibrations[best], judged[best], (), {}
        if cosines.mean() < target:
            harm = self._harm(scheme, calibration)
            keep, cosines = self._keep(scheme, calibration, harm, cosines, target)
        snr = layer_snr(self.graph, simulate_int8(self.graph, calibration, SCHEMES[scheme], keep), self._judges[:_SNR_FACES])
        return Int8Plan(scheme, calibration, keep, float(cosines.mean()), float(cosines.min()),
                        {name: float(found.mean()) for name, found in judged.items()}, snr,
                        macs_in_int8(self.graph, SCHEMES[scheme].kept(self.graph, keep)), harm)

    def _harm(self, scheme: str, calibration: Calibration) -> dict[str, float]:
        names = [layer.name for layer in self.graph.layers]
        found = {}
        with progress_bar(len(names), 'layers', 'sensitivity') as bar:
            for name in names:
                others = [other for other in names if other != name]
                found[name] = float(1 - self.cosines(simulate_int8(self.graph, calibration, SCHEMES[scheme], others)).mean())
                bar.update(1)
        return found

    def _keep(self, scheme: str, calibration: Calibration, harm: dict[str, float], cosines: np.ndarray, target: float
              ) -> tuple[tuple[str, ...], np.ndarray]:
        """Keep the most harmful layer, then the two most harmful, then four, ... until the target or the limit is reached."""
        ranked, keep = sorted(harm, key=harm.get, reverse=True), ()
        limit = max(1, int(MAX_KEPT * len(ranked)))
        while cosines.mean() < target and len(keep) < limit:
            keep = tuple(ranked[:min(limit, max(1, 2 * len(keep)))])
            cosines = self.cosines(simulate_int8(self.graph, calibration, SCHEMES[scheme], keep))
        return keep, cosines
