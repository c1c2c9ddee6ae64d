"""What a device and its inference library can do: one YAML a target, one a library version. Data, not code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from plugins.registry import suggest
from zoo.datafile import build_dataclass, read_yaml

__all__ = ['Runtime', 'Target', 'TargetError', 'list_targets', 'read_target', 'target']

FOLDER = Path(__file__).parent


class TargetError(ValueError):
    """A target does not exist, a field in its file is wrong, or it cannot do what is asked of it."""


@dataclass(frozen=True)
class Runtime:
    """A version of an inference library.

    Attributes:
        kind: ``tensorrt`` or ``ncnn``.
        source: where the facts were read.
        opset, ir_version: the newest that it documents.
        operators: ONNX operators that it imports; ``int8_operators`` of them also in 8 bits (empty: it does not say).
        restrictions: what an operator is limited to; replacements: what to use instead of one that is missing.
        trtexec: how this version spells the options that changed: ``build_only``, ``workspace`` (``{mb}``), ``keep``
            (``{layers}``), ``measure``, ``copies.with`` and ``copies.without``.
        variants: by precision, NCNN's options, or what an engine is built from: ``form`` (:data:`zoo.export.variants.FORMS`),
            ``graph``, builder ``flags`` and calibration ``cache``.
    """

    name: str
    kind: str
    source: str
    opset: int
    ir_version: int
    operators: tuple[str, ...]
    int8_operators: tuple[str, ...] = ()
    restrictions: Mapping[str, str] = field(default_factory=dict)
    replacements: Mapping[str, str] = field(default_factory=dict)
    trtexec: Mapping = field(default_factory=dict)
    variants: Mapping[str, Mapping] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """A device with its system and library.

    Attributes:
        runtime: the library.
        system: operating system and its version.
        native: precisions that the hardware has units for; ``verdicts``: what to expect of one that it lacks, which is
            built on request only.
        default: precision that is built when none is named.
        batch: largest batch of an engine.
        tensorrt, cuda, python, compute_capability, cpu: versions and hardware names.
        memory_mb, workspace_mb: of the device; for building.
        peak: rates of the hardware with their ``source``.
        power: commands that choose the ``fastest`` mode and that ``show`` mode and clocks.
        environment: variables to set on the device.
        options: of the NCNN runtime.
        latency: a fit to published measurements that predicts FP32 latency, see :func:`zoo.latency.load_latency`.
        notes: what a user of the device must know.
    """

    name: str
    summary: str
    runtime: Runtime
    system: str
    native: tuple[str, ...]
    default: str
    batch: int
    verdicts: Mapping[str, str] = field(default_factory=dict)
    tensorrt: str = ''
    cuda: str = ''
    python: str = ''
    compute_capability: str = ''
    cpu: str = ''
    memory_mb: int | None = None
    workspace_mb: int = 1024
    peak: Mapping = field(default_factory=dict)
    power: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    options: Mapping = field(default_factory=dict)
    latency: str = ''
    notes: tuple[str, ...] = ()

    def verdict(self, precision: str) -> str:
        """What to expect of a precision: empty when the hardware has units for it.

        Raises:
            TargetError: the target cannot run it at all.
        """
        if precision in self.native:
            return ''
        if precision not in self.verdicts:
            known = ', '.join([*self.native, *self.verdicts])
            raise TargetError(f'{self.name} has no precision {precision!r}; it can run {known}')
        return self.verdicts[precision]


@cache
def target(name: str) -> Target:
    """A target by name.

    Raises:
        TargetError: unknown (close ones are suggested), or its file is malformed.
    """
    path = FOLDER / 'targets' / f'{name}.yaml'
    if not path.is_file():
        raise TargetError(f'unknown target {name!r}{suggest(name, list_targets())}')
    return read_target(path)


def list_targets() -> list[str]:
    """Sorted names of all targets."""
    return sorted(path.stem for path in (FOLDER / 'targets').glob('*.yaml'))


def read_target(path: Path) -> Target:
    """Read and check one target file and the runtime it names.

    Raises:
        TargetError: a field is missing, unknown or wrong; the message names file and field.
    """
    data = read_yaml(path, TargetError)
    runtime_path = FOLDER / 'runtimes' / f'{data.get("runtime")}.yaml'
    if not runtime_path.is_file():
        raise TargetError(f'{path}: runtime: no file {runtime_path.name} in {runtime_path.parent}')
    runtime = build_dataclass(Runtime, {'name': runtime_path.stem, **read_yaml(runtime_path, TargetError)}, str(runtime_path),
                              TargetError)
    made = build_dataclass(Target, {'name': path.stem, **data, 'runtime': runtime}, str(path), TargetError)
    offered = {*made.native, *made.verdicts}
    if made.default not in offered:
        raise TargetError(f'{path}: default: {made.default!r} is neither native nor has a verdict')
    unknown = sorted(offered - set(runtime.variants))
    if unknown:
        raise TargetError(f'{path}: {runtime.name} has no variant {unknown[0]!r}')
    return made
