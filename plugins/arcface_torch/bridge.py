"""The three seams of ``arcface_torch``: where modules are found, ``get_model``, and the ``configs`` package."""

from __future__ import annotations

import importlib
import logging
import runpy
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from plugins.arcface_torch import checkout as checkouts
from plugins.arcface_torch.checkout import MODULES, CheckoutError
from plugins.arcface_torch.compat import SHIMS, apply_shims
from plugins.extras import MissingExtra
from plugins.registry import create_backbone, list_backbones, suggest

__all__ = ['RECIPES', 'Launch', 'LaunchError', 'load_config', 'prepare', 'run']

RECIPES = Path(__file__).parents[2] / 'recipes'
INPUT = (112, 112)
EMBEDDING = 512  # what its scripts mean that do not say it (eval_ijbc.py, inference.py, flops.py)


class LaunchError(ValueError):
    """A script or a recipe of that name does not exist."""


@dataclass(frozen=True)
class Launch:
    """A script that is ready to run.

    Attributes:
        shims: name and reason of each shim that was needed.
        recipes: folders beside the checkout's own in which ``configs.<name>`` is looked for.
    """

    checkout: Path
    script: str
    arguments: tuple[str, ...]
    shims: Mapping[str, str]
    recipes: tuple[Path, ...]


def prepare(checkout: Path, script: str, arguments: Iterable[str] = (), recipes: Iterable[Path] = (),
            without: Iterable[str] = ()) -> Launch:
    """Make this process ready to run ``script`` of the checkout. Nothing is written to the checkout, not even bytecode.

    Raises:
        LaunchError: no such script, shim or recipe folder.
        MissingExtra: a library that the script imports is not installed.
        CheckoutError: modules of another project stand in the way.
    """
    _check_names(checkout, script, without)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(checkout))  # first: its modules have names like `utils`
    supplied = {shim.provides for shim in SHIMS if shim.name not in set(without)}
    missing = [name for name in checkouts.missing_modules(checkout, script) if name not in supplied]
    if missing:
        raise MissingExtra(f"{script} imports {', '.join(missing)}, which is not installed: "
                           "pip install 'facezoo[arcface-torch]'")
    shims = apply_shims(without)
    _extend_models(checkout)
    folders = _extend_configs(recipes)
    return Launch(checkout, script, tuple(arguments), shims, folders)


def run(launch: Launch) -> None:
    """Run the script as ``python script arguments`` would. Its own exceptions and exits come through."""
    path = str(launch.checkout / launch.script)
    logging.getLogger().handlers.clear()  # the script adds its own: every line would be printed twice
    sys.argv = [path, *launch.arguments]
    runpy.run_path(path, run_name='__main__')


def load_config(launch: Launch) -> dict | None:
    """The recipe that ``train_v2.py`` is about to read (the object itself, not a copy); None for other scripts.

    Raises:
        LaunchError: no such recipe (the message suggests close names), or one without `config`.
    """
    named = next((word for word in launch.arguments if not word.startswith('-')), None)
    if launch.script != 'train_v2.py' or named is None:
        return None
    known = {path.stem: path for folder in (launch.checkout / 'configs', *launch.recipes)[::-1] for path in folder.glob('*.py')
             if not path.stem.startswith('_') and (folder != RECIPES or '_' in path.stem)}  # beside ours lies what reads them
    name = Path(named).name.partition('.')[0]
    if not named.startswith('configs/') or name not in known:
        close = f'; did you mean {f"configs/{name}"!r}?' if name in known else suggest(name, known)
        raise LaunchError(f'{named}: no such recipe{close} (write configs/NAME; recipes are looked for in the checkout, '
                          f'{", ".join(map(str, launch.recipes))})')
    others = [path for folder in launch.recipes if (path := folder / f'{name}.py').is_file()]
    if hidden := [path for path in others if not path.samefile(known[name])]:  # ./configs may be the checkout's own
        raise LaunchError(f'configs/{name} is {known[name]}, which hides {hidden[0]}; rename your own recipe')
    module = importlib.import_module(f'configs.{name}')
    if not hasattr(module, 'config'):
        raise LaunchError(f'{known[name]}: defines no `config`')
    return module.config


def _check_names(checkout: Path, script: str, without: Iterable[str]) -> None:
    if not (checkout / script).is_file():
        known = checkouts.scripts(checkout)
        raise LaunchError(f'{script}: no such script in {checkout}{suggest(script, known)}')
    shims = [shim.name for shim in SHIMS]
    for name in without:
        if name not in shims:
            raise LaunchError(f'--without {name}: no such shim{suggest(name, shims)}')
    for name in sorted(MODULES & set(sys.modules)):
        place = getattr(sys.modules[name], '__file__', None)
        if not place or not Path(place).is_relative_to(checkout):
            raise CheckoutError(f'the module {name!r} ({place}) was imported before, and the checkout has one of that name; '
                                'run the script in a process of its own')


def _extend_models(checkout: Path) -> None:
    backbones = importlib.import_module('backbones')
    if not Path(backbones.__file__).is_relative_to(checkout):
        raise CheckoutError(f'`backbones` was found in {backbones.__file__}, not in {checkout}')
    backbones.get_model = _registry_first(backbones.get_model, checkouts.upstream_networks(checkout))


def _registry_first(original: Callable, upstream: list[str]) -> Callable:
    import torch

    def get_model(name: str, **options):
        own = list_backbones()
        if name not in own:
            if name not in upstream:
                raise ValueError(f'network={name!r}: neither facezoo nor InsightFace has it{suggest(name, own + upstream)}')
            return original(name, **options)
        if not torch.cuda.is_available():
            options['fp16'] = False  # as InsightFace's networks: a CPU that only emulates bfloat16 takes ten times as long
        model = create_backbone(name, **{'num_features': EMBEDDING, **options})
        if model.input_size != INPUT:
            raise ValueError(f'network={name!r} takes {model.input_size[0]}x{model.input_size[1]} faces; InsightFace feeds '
                             '112x112: train it with `facezoo train`')
        return model
    return get_model


def _extend_configs(recipes: Iterable[Path]) -> tuple[Path, ...]:
    """Append facezoo's recipes, ``./configs`` if there is one, and ``recipes`` to the package's path (its own names win)."""
    folders = [RECIPES, *[own for own in [Path('configs')] if own.is_dir()], *map(Path, recipes)]
    for folder in folders:
        if not folder.is_dir():
            raise LaunchError(f'{folder}: no such folder of recipes')
    importlib.import_module('configs').__path__.extend(str(folder.absolute()) for folder in folders)
    return tuple(folder.absolute() for folder in folders)
