"""Finding a checkout of ``arcface_torch`` and making sure that it is one whose seams this package knows."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from pathlib import Path

from plugins.files import write_atomic

__all__ = ['CheckoutError', 'locate', 'missing_modules', 'probe', 'remember', 'scripts', 'upstream_networks']

COMMIT = '7fadd42'  # of deepinsight/insightface; the folder has not changed in function since 2023
CLONE = 'git clone --depth 1 https://github.com/deepinsight/insightface'
MODULES = frozenset({'backbones', 'configs', 'dataset', 'eval', 'losses', 'lr_scheduler', 'onnx_helper', 'partial_fc_v2',
                     'utils'})
BY_NAME = {'utils.utils_config': 'configs.base', 'torch.utils.tensorboard': 'tensorboard'}  # module: what it imports unseen

# what the launcher replaces, extends or relies on: file, function, parameters
SEAMS = (
    ('backbones/__init__.py', 'get_model', 'name, **kwargs'),
    ('utils/utils_config.py', 'get_config', 'config_file'),
    ('utils/utils_distributed_sampler.py', 'sync_random_seed', 'seed, device'),
    ('dataset.py', 'get_dataloader', 'root_dir, local_rank, batch_size, dali, dali_aug, seed, num_workers'),
    ('dataset.py', 'MXFaceDataset.__init__', 'self, root_dir, local_rank'),
    ('lr_scheduler.py', 'PolynomialLRWarmup.__init__',
     'self, optimizer, warmup_iters, total_iters, power, last_epoch, verbose'),
    ('utils/utils_callbacks.py', 'CallBackVerification.init_dataset', 'self, val_targets, data_dir, image_size'),
    ('eval/verification.py', 'load_bin', 'path, image_size'),
    ('eval/verification.py', 'test', 'data_set, backbone, batch_size, nfolds'),
)


class CheckoutError(RuntimeError):
    """There is no usable checkout of arcface_torch."""


def memory() -> Path:
    """The file that holds the remembered location.

    Raises:
        CheckoutError: there is none, since this user has no home folder.
    """
    try:
        return Path(os.environ.get('XDG_CONFIG_HOME') or Path.home() / '.config') / 'facezoo' / 'arcface_torch'
    except RuntimeError:
        raise CheckoutError('this user has no home folder to remember a checkout in; set ARCFACE_TORCH to one') from None


def remember(checkout: Path) -> Path:
    """Note ``checkout`` for later runs; returns the file it is noted in."""
    write_atomic(memory(), f'{checkout}\n')
    return memory()


def locate(given: str | os.PathLike | None = None) -> Path:
    """The ``arcface_torch`` folder: ``given``, else ``$ARCFACE_TORCH``, else the remembered one, probed.

    Either the folder itself or the root of an insightface checkout may be named.

    Raises:
        CheckoutError: none is named, it is not there, or it is something else.
    """
    place, source = (given, '--checkout') if given else (os.environ.get('ARCFACE_TORCH'), 'ARCFACE_TORCH')
    if not place and os.path.isfile(memory()):  # False, too, where another user's home is closed
        place, source = memory().read_text(encoding='utf-8').strip(), f'remembered in {memory()}'
    if not place:
        raise CheckoutError(f'no checkout of arcface_torch is known. Get one with\n    {CLONE}\nand name it once: '
                            'facezoo arcface-torch --checkout insightface   (or set ARCFACE_TORCH)')
    root = Path(place).expanduser().absolute()
    for folder in (root, root / 'recognition' / 'arcface_torch', root / 'arcface_torch'):
        if (folder / 'train_v2.py').is_file() and (folder / 'backbones').is_dir():
            probe(folder)
            return folder
    what = 'is not there' if not root.is_dir() else 'is another project: no recognition/arcface_torch/train_v2.py in it'
    raise CheckoutError(f'{root} ({source}) {what}. Get InsightFace with\n    {CLONE}')


def probe(checkout: Path) -> None:
    """Compare the signatures that the launcher relies on.

    Raises:
        CheckoutError: one is missing or different; nothing of the checkout has been run.
    """
    for file, function, expected in SEAMS:
        found = _signature(checkout / file, function)
        if found != expected:
            have = f'has {function}({found})' if found is not None else 'lacks it'
            raise CheckoutError(f'{checkout}: another version of arcface_torch: {file} should have {function}({expected}), but '
                                f'{have}. Use the version that facezoo knows: git checkout {COMMIT} (in a clone of --depth 1, '
                                'git fetch --unshallow first)')


def scripts(checkout: Path) -> list[str]:
    """Names of the scripts that take a command line, relative to the checkout."""
    files = [*checkout.glob('*.py'), *checkout.glob('scripts/*.py')]
    return sorted(str(f.relative_to(checkout)) for f in files if 'ArgumentParser' in f.read_text(errors='replace'))


def upstream_networks(checkout: Path) -> list[str]:
    """The network names that InsightFace's own ``get_model`` compares with."""
    tree = _parse(checkout / 'backbones' / '__init__.py')
    compared = [side for node in ast.walk(tree) if isinstance(node, ast.Compare) for side in node.comparators]
    return sorted({side.value for side in compared if isinstance(side, ast.Constant) and isinstance(side.value, str)})


def missing_modules(checkout: Path, script: str) -> list[str]:
    """Libraries that ``script`` and the modules of the checkout behind it import at top level and that are not installed."""
    waiting, seen, missing = [checkout / script], set(), set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        names = _imports(_parse(path))
        for name in (*names, *(BY_NAME[name] for name in names if name in BY_NAME)):
            local = [p for p in (checkout / f'{name.replace(".", "/")}.py', checkout / name.replace('.', '/') / '__init__.py')
                     if p.is_file()]
            waiting += local
            top = name.partition('.')[0]
            if not local and top not in MODULES and top not in sys.modules and importlib.util.find_spec(top) is None:
                missing.add(top)
    return sorted(missing)


def _imports(tree: ast.Module) -> list[str]:
    """Absolute names imported when the module runs as a script, functions left out; ``from a import b``: ``a``, ``a.b``."""
    names: list[str] = []
    blocks: list[ast.stmt] = list(tree.body)
    while blocks:
        node = blocks.pop()
        if isinstance(node, ast.If | ast.Try | ast.With):
            blocks += node.body
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f'{node.module}.{alias.name}' for alias in node.names)]
    return names


def _parse(path: Path) -> ast.Module:
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # `rank is 0` in the checkout
        try:
            return ast.parse(path.read_text(encoding='utf-8'))
        except SyntaxError as error:
            raise CheckoutError(f'{path}: not Python: {error}; check the file out again') from None


def _signature(path: Path, function: str) -> str | None:
    """Parameters of a top-level function or method as text, without defaults; None when it is not there."""
    if not path.is_file():
        return None
    body: list[ast.stmt] = _parse(path).body
    for name in function.split('.'):
        node = next((n for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name), None)
        if node is None:
            return None
        body = node.body
    arguments = node.args
    names = [argument.arg for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]]
    if arguments.kwarg:
        names.append(f'**{arguments.kwarg.arg}')
    return ', '.join(names)
