"""The completion scripts, run in the shells that they are for."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest

from recipes.config import list_recipes
from zoo.cli import COMMANDS, NAMES, main
from zoo.commands.completion import FILES, SHELLS
from zoo.model_card import list_models

pytest.importorskip('shtab', reason="needs shtab: pip install 'facezoo[completion]'")
CASES = [
    ('facezoo ', set(COMMANDS)),
    ('facezoo rec', {'recipe', 'recognise'}),
    ('facezoo data ', {'align', 'pack', 'pairs', 'unpack', 'index', 'info', 'keypoints'}),
    ('facezoo info fd', {'fdfacenet', 'fdfacenet_nogdc'}),
    ('facezoo train fdfacenet_kd', {'fdfacenet_kd_faces'}),
    ('facezoo recipe show lnrn_', {'lnrn_casia', 'lnrn_kd_faces'}),
    ('facezoo export fdfacenet --target jetson-t', {'jetson-tx2'}),
    ('facezoo export fdfacenet --to n', {'ncnn'}),
    ('facezoo eval fdfacenet --no', {'--no-flip'}),
    ('facezoo latency predict fdfacenet --device rk', {'rk3288-paper'}),
    ('facezoo experiments status fdfacenet_a', {'fdfacenet_ablation'}),
    ('facezoo eval mod', {'model.onnx'}),
    ('facezoo verify a.jpg ', {'a.jpg', 'model.onnx'}),
    ('facezoo watch 0 --gallery a', {'a.jpg'}),
    ('facezoo bench fdfacenet --rounds ', set()),
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """With two files, and the scripts of all shells outside it."""
    root = tmp_path_factory.mktemp('completion')
    for name in ('files/a.jpg', 'files/model.onnx'):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    return root


@pytest.fixture(scope='module')
def script(folder):
    def write(shell: str) -> Path:
        path = folder / f'facezoo.{shell}'
        with open(path, 'w') as file, contextlib.redirect_stdout(file):
            assert main(['completion', shell]) == 0
        return path
    return write


def run(shell: str, code: str, folder: Path) -> str:
    if shutil.which(shell) is None:
        pytest.skip(f'needs the shell {shell}')
    done = subprocess.run([shell, '-c', code], cwd=folder / 'files', capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def test_bash_offers_what_fits(script, folder):
    path = script('bash')
    code = [f'source {path}']
    for line, _ in CASES:
        words = line.split(' ')
        code += [f'COMP_WORDS=({" ".join(words[:-1])} "{words[-1]}"); COMP_CWORD={len(words) - 1}; COMPREPLY=()',
                 '_shtab_facezoo; echo "${COMPREPLY[@]}"']
    found = run('bash', '\n'.join(code), folder).splitlines()
    for (line, expected), offered in zip(CASES, found, strict=True):
        assert set(offered.split()) == expected, line


def test_fish_offers_what_fits(script, folder):
    path = script('fish')
    code = [f'source {path}'] + [f'complete -C "{line}"; echo END' for line, _ in CASES]
    found = run('fish', '\n'.join(code), folder).split('END\n')[:-1]
    for (line, expected), offered in zip(CASES, found, strict=True):
        assert expected <= {row.split('\t')[0] for row in offered.splitlines()}, line


def test_zsh_reads_it(script, folder):
    path = script('zsh')
    code = f'autoload -U compinit; compinit -u -D; eval "$(<{path})"; print $_comps[facezoo]'
    assert run('zsh', code, folder) == '_shtab_facezoo\n'


@pytest.mark.parametrize('shell', SHELLS)
def test_every_model_and_recipe_is_in_it(shell, script):
    words = script(shell).read_text().replace("'", ' ').replace('"', ' ').split()
    assert set(list_models()) | set(list_recipes()) <= set(words)


def test_names_are_those_of_the_help():
    from test_manual import PAGES, arguments
    used = {str(action.metavar).partition(',')[0] for line in PAGES for action in arguments(line)}
    assert set(NAMES) | set(FILES) <= used
