"""Teachers: recognisers of any runtime, their embeddings cached on disk per view of each face, or a finished training.

Several recognisers are joined by concatenating their L2-normalised embeddings, whose inner product is the mean of the teachers'
cosine similarities. :mod:`recipes.trainer.targets` brings them to the length of the student's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from plugins.data.datasets import Batch, FaceDataset
from plugins.data.sources import FaceSource, read_faces
from plugins.files import atomic_path, sha256_file
from plugins.losses.distillation import DISTILLATIONS, Seen
from plugins.losses.margin import margin_at
from plugins.preprocess import FaceError, l2_normalise
from plugins.registry import create_backbone
from recipes.config import RecipeError, TrainConfig
from recipes.trainer import targets
from recipes.trainer.finished import check_identities, finished_recipe, finished_state, is_training
from recipes.trainer.student import Student, forward_of, see
from zoo.hub import cache_folder, weights_path
from zoo.model_card import list_models, preprocess_of, weights_of
from zoo.progress import progress_bar
from zoo.runtime import open_embedder
from zoo.runtime.embedder import Embedder
from zoo.runtime.torch import TorchEmbedder
from zoo.weights import load_weights

__all__ = ['EmbeddingTeacher', 'NetworkTeacher', 'fingerprint_model', 'open_teacher', 'teacher_size']

_LOG = logging.getLogger(__name__)
_SAMPLE = 4096


def open_teacher(config: TrainConfig, student: Student, dataset: FaceDataset) -> Callable[[Batch, int], Seen]:
    """The teacher that a recipe names: a function of a batch and its epoch.

    Raises:
        RecipeError: a finished training among several teachers, or one that is damaged or does not fit the student.
    """
    runs = [path for path in config.teachers if is_training(path)]
    if not runs:
        if set(config.distill) - {'embedding', 'relation'}:
            raise RecipeError(f'distill={config.distill}: recognisers teach only embedding and relation; for the others name '
                              'the output folder of a finished training as the teacher')
        return EmbeddingTeacher(config.teachers, config.embedding_size, dataset, _beginning(config))
    if len(config.teachers) > 1:
        raise RecipeError(f'teachers={list(config.teachers)}: a finished training must be the only teacher')
    return NetworkTeacher(Path(runs[0]), student, dataset.source)


def _beginning(config: TrainConfig) -> TorchEmbedder | None:
    """The student as the training begins, named by the digest of its weights; None when it begins from nothing."""
    if not config.init:
        return None
    network = create_backbone(config.network, num_features=config.embedding_size, **config.network_args)
    path = weights_path(config.init)
    load_weights(network, path)
    return TorchEmbedder(network.to(memory_format=torch.channels_last), preprocess_of(config.network), sha256_file(path)[:16])


def teacher_size(teachers: Sequence[str], size: int) -> int:
    """Side of the crops that the first of ``teachers`` wants; ``size``, the student's, without teachers.

    Raises:
        FaceError: smaller than the student's.
        RecipeError: one of them is not there.
    """
    if not teachers:
        return size
    for path in teachers:
        _check_there(path)
    first = Path(teachers[0])
    if is_training(first):
        wanted = preprocess_of(finished_recipe(first).network).input_size
    else:
        wanted = open_embedder(first).preprocess.input_size
    if wanted < size:
        raise FaceError(f'teacher {first} wants {wanted}-pixel faces, the student {size}; they must see the same crop, and '
                        'crops are never enlarged')
    return wanted


def _check_there(path: str) -> None:
    """Refuse a path at which nothing is, or a folder in which no teacher is."""
    there = path.partition('.')[0] in list_models() or Path(path).is_file() or is_training(path)
    if not there and not any(Path(path).glob('*.param')):
        what = 'holds neither a finished training nor a network' if Path(path).is_dir() else 'is not there'
        raise RecipeError(f'teachers: {path} {what}; name a model of the zoo, the file of a recogniser or the output folder of '
                          'a finished training')


class NetworkTeacher:
    """The network and head of a finished training, in evaluation mode, on the clean faces at its own size.

    Its forward pass is in the student's precision: bf16 takes 0.6 to 0.8 of the time of float32 (one core, 128 faces,
    ``cbam_resnext100`` of units 1, 2, 3, 1 and width 0.25) and changes the losses by 0.2 % at most.

    Args:
        source: the student's training faces.

    Raises:
        RecipeError: it is damaged, knows other identities, or its embeddings or attention maps have other sizes than the
            student's.
    """

    def __init__(self, run: Path, student: Student, source: FaceSource) -> None:
        config, saved = finished_recipe(run), finished_state(run)
        self.network, self.maps = _finished_network(run, config, saved), student.maps
        self.labels, self.bf16 = 'label' in student.config.distill, student.config.precision == 'bf16'
        if self.labels:
            _compare_heads(run, self.network, student)
            check_identities(run, config, saved.get('data', {}).get('digest of the faces'), student.config, source)
        if self.maps and not hasattr(self.network.backbone, 'forward_maps'):
            raise RecipeError(f'teacher {run}: {config.network} exposes no attention maps')
        self._compare_with(student, run)
        self._forward = forward_of(self.network.backbone, self.maps, student.config.compile)

    @torch.no_grad()
    def _compare_with(self, student: Student, run: Path) -> None:
        """Try the losses that compare the two networks on two blank faces."""
        device, training = next(student.parameters()).device, student.backbone.training
        self.network.to(device)
        mine, theirs = (see(forward_of(net.backbone.eval(), self.maps, False), net.preprocess.tensor(_blank(net, device)))
                        for net in (student, self.network))
        student.backbone.train(training)
        for name in set(student.config.distill) & set(DISTILLATIONS):
            try:
                DISTILLATIONS[name](mine, theirs)
            except ValueError as error:
                raise RecipeError(f'teacher {run}: {error}') from None

    @torch.no_grad()
    def __call__(self, batch: Batch, epoch: int) -> Seen:
        self.network.to(batch.clean.device)
        with torch.autocast(batch.clean.device.type, torch.bfloat16, enabled=self.bf16):
            seen = see(self._forward, self.network.preprocess.tensor(batch.clean))
        logits = self.network.head.logits(seen.embedding, batch.labels) if self.labels else None
        return seen._replace(logits=logits)


def _finished_network(run: Path, config: TrainConfig, saved: dict) -> Student:
    """The network of a training with the weights that count (see Trainer.final), its head with the margins it ended with.

    Raises:
        RecipeError: the folder is damaged.
    """
    state = saved['student']
    classes = next((len(state[name]) for name in ('head.weight', 'centres.centres') if name in state), 0)
    network = Student(dataclasses.replace(config, compile=False), preprocess_of(config.network), classes)
    try:
        network.load_state_dict(state)
        if saved['ema']:
            average = {key.removeprefix('module.'): value for key, value in saved['ema'].items() if key.startswith('module.')}
            network.backbone.load_state_dict(average)
    except RuntimeError as error:
        raise RecipeError(f'teacher {run}: checkpoint.pt does not fit recipe.yaml ({" ".join(str(error).split())[:200]}); copy '
                          'both from the same training') from None
    if network.head is not None:
        network.head.margins = margin_at(config.margin_list, config.margin_end, 1.0)
    return network.eval().requires_grad_(False)


def _compare_heads(run: Path, teacher: Student, student: Student) -> None:
    theirs, mine = (len(net.head.weight) if net.head is not None else 0 for net in (teacher, student))
    if theirs != mine:
        raise RecipeError(f'teacher {run} knows {theirs} identities, the student {mine}: label distillation needs the same '
                          'training set for both')


def _blank(net: Student, device: torch.device) -> torch.Tensor:
    """Two black faces of a network's own size."""
    size = net.preprocess.input_size
    return torch.zeros(2, size, size, 3, dtype=torch.uint8, device=device)


class EmbeddingTeacher:
    """Target embeddings for batches of a :class:`FaceDataset`.

    Args:
        paths: teachers, as :func:`zoo.runtime.open_embedder` takes them.
        num_features: length of the student's embedding.
        dataset: the training faces; its seed and augmentation are part of the cache's key. The embeddings of its views are
            cached; without views they are computed anew.
        beginning: the student as it begins, when it begins from weights; it is taught in the coordinates that it has.

    Raises:
        FaceError: the teachers want crops of different sizes.
    """

    def __init__(self, paths: tuple[str, ...], num_features: int, dataset: FaceDataset,
                 beginning: Embedder | None = None) -> None:
        threads = torch.get_num_threads()
        self.models = [open_embedder(path, threads=threads) for path in paths]
        for model in self.models:
            if model.preprocess.input_size != dataset.size:
                raise FaceError(f'teacher {model.name} wants {model.preprocess.input_size}-pixel faces, the first teacher '
                                f'{dataset.size}; they must see the same crop')
        self.length = sum(model.num_features for model in self.models)
        self._dataset = dataset
        teachers = [(fingerprint_model(path), model.preprocess.to_dict())
                    for path, model in zip(paths, self.models, strict=True)]
        key = json.dumps([teachers, dataset.fingerprint, dataset.seed, vars(dataset.augment)])
        self._folder = cache_folder() / 'teachers' / hashlib.sha256(key.encode()).hexdigest()[:16]
        self._maps: dict[int, np.memmap] = {}
        self._projection = self._load_projection(num_features, beginning)

    def __call__(self, batch: Batch, epoch: int) -> Seen:
        """Target embeddings float32 ``(N, num_features)`` (not normalised) of the clean faces."""
        faces, device = batch.clean.cpu().numpy(), batch.clean.device
        if not self._dataset.views:
            joined = _join(self.models, faces)
        else:
            table, rows = self._view(self._dataset.view(epoch)), batch.indices.cpu().numpy()
            joined = np.asarray(table[rows], np.float32)
            missing = np.isnan(joined).any(1)  # of a row that a crash tore, a part
            if missing.any():
                table[rows[missing]] = _join(self.models, faces[missing])
                joined = np.asarray(table[rows], np.float32)  # as rounded as in every later epoch
        return Seen(torch.from_numpy(joined @ self._projection).to(device))

    def _view(self, view: int) -> np.memmap:
        """The cached embeddings of one view, NaN where not yet computed."""
        if view not in self._maps:
            path = self._folder / f'view-{view:03d}.npy'
            if not path.exists():
                with atomic_path(path) as temporary, open(temporary, 'wb') as file:
                    np.lib.format.write_array_header_1_0(file, {
                        'descr': '<f2', 'fortran_order': False, 'shape': (len(self._dataset), self.length)})
                    row = np.full(self.length, np.nan, '<f2').tobytes()
                    for _ in range(len(self._dataset)):
                        file.write(row)
            self._maps[view] = np.load(path, mmap_mode='r+')
        return self._maps[view]

    def _load_projection(self, num_features: int, beginning: Embedder | None) -> np.ndarray:
        """Float32 ``(length, num_features)``, see :mod:`recipes.trainer.targets`."""
        if self.length <= num_features:
            projection = targets.lift(self.length, num_features)
        else:
            projection = self._kept(f'projection-{num_features}', lambda: targets.principal(self._sample(), num_features))
        if beginning is None:
            return projection
        return self._kept(f'projection-{num_features}-from-{beginning.name}',
                          lambda: targets.turn(projection, self._sample(), self._embed_sample([beginning])))

    def _sample(self) -> np.ndarray:
        return self._kept('sample', lambda: self._embed_sample(self.models))

    def _embed_sample(self, models: Sequence[Embedder]) -> np.ndarray:
        """Joined embeddings of the same few thousand training faces, whoever asks; the models see the same crop."""
        source, size = self._dataset.source, models[0].preprocess.input_size
        sample = np.random.default_rng(0).permutation(len(source))[:_SAMPLE]
        joined = []
        with progress_bar(len(sample), 'faces', 'directions') as bar:
            for rows in np.array_split(sample, -(-len(sample) // 64)):
                joined.append(_join(models, read_faces(source, rows, size)))
                bar.update(len(rows))
        return np.concatenate(joined)

    def _kept(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """What ``make`` gives, from the cache if it was made before."""
        path = self._folder / f'{name}.npy'
        if not path.exists():
            with atomic_path(path) as temporary, open(temporary, 'wb') as file:
                np.save(file, make())
        return np.load(path)


def _join(models: Sequence[Embedder], faces: np.ndarray) -> np.ndarray:
    return np.concatenate([l2_normalise(model(faces)) for model in models], 1)


def fingerprint_model(name: str | os.PathLike) -> str:
    """Digest of everything that a teacher computes with; of a model of the zoo, of its weights; of a training, of what it saved
    last."""
    path = Path(name)
    if not path.exists():
        return weights_of(str(name)).sha256[:16]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in ('.param', '.bin') or p.name == 'checkpoint.pt')
    else:
        # PyTorch exports an ONNX file's weights to a file beside it: what is left is the same for every training
        beside = path.with_suffix('.bin') if path.suffix == '.param' else path.with_name(f'{path.name}.data')
        files = [path, beside] if path.suffix == '.param' or beside.is_file() else [path]
    return '-'.join(sha256_file(file)[:16] for file in files)
