"""Where an artefact is written, and the JSON file beside it that says what it is."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from plugins.extras import installed_versions
from plugins.files import sha256_file, write_atomic
from zoo.runtime.embedder import artefact_files, sidecar_path

__all__ = ['SUFFIXES', 'files_of', 'finish_sidecar', 'require_own_sidecar', 'require_place']

SUFFIXES = {'onnx': '.onnx', 'ncnn': '', 'tensorrt': '.tar'}  # of what is written; a folder has none

PACKAGES = ('facezoo', 'torch', 'onnx', 'onnxsim', 'onnxruntime', 'ncnn', 'pnnx', 'numpy')  # that an artefact depends on


def require_place(out: Path, to: str) -> None:
    """Refuse a place that does not suit the format.

    Raises:
        ValueError: ``out`` has the wrong suffix, or is a folder where a file is to be, or the reverse.
    """
    if SUFFIXES[to] and out.suffix != SUFFIXES[to]:
        raise ValueError(f'--out {out}: {to} is one file; name it with {SUFFIXES[to]}')
    if out.exists() and out.is_dir() == bool(SUFFIXES[to]):
        wanted, found = ('one file', 'folder') if SUFFIXES[to] else ('a folder', 'file')
        raise ValueError(f'--out {out}: {to} is {wanted}, and this is a {found}; choose another --out')


def require_own_sidecar(artefact: Path) -> None:
    """Refuse a place where the sidecar of another artefact, or another JSON file, would be overwritten.

    Raises:
        ValueError: a file of another format has that sidecar; or it is none, but a report or a measurement.
    """
    sidecar = sidecar_path(artefact)
    files = files_of(sidecar)
    if not files and sidecar.exists():
        raise ValueError(f'{sidecar} is no sidecar of an export, but one would replace it; choose another --out, or move it '
                         'away')
    if artefact.suffix not in {file.suffix for file in files} and any(file.exists() for file in files):
        raise ValueError(f'{sidecar} belongs to {files[0].name}, which could not be checked without it; choose another --out')


def files_of(sidecar: Path) -> list[Path]:
    """The files that a sidecar was written with, which lie beside it; none when it is missing or no sidecar."""
    try:
        return [sidecar.with_suffix(Path(name).suffix) for name in json.loads(sidecar.read_text())['sha256']]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def finish_sidecar(sidecar: dict, artefact: Path) -> dict:
    """Complete a sidecar with the hashes and sizes of its files and with versions, and write it beside the artefact."""
    files = artefact_files(artefact)
    sidecar |= {'sha256': {file.name: sha256_file(file) for file in files}, 'bytes': sum(f.stat().st_size for f in files),
                'versions': installed_versions(PACKAGES),
                'created': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')}
    write_atomic(sidecar_path(artefact), json.dumps(sidecar, indent=2) + '\n')
    return sidecar
