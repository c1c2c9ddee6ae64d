"""The launcher: the seams by contract on a made-up checkout, and the real scripts where a real checkout is at hand.

``ARCFACE_TORCH=insightface/recognition/arcface_torch python -m pytest tests/test_arcface_torch.py`` runs the real ones;
``benchmarks/arcface_torch.py`` runs all of them on more data and writes the report.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from plugins.arcface_torch import bridge, checkout, compat
from plugins.arcface_torch.bridge import LaunchError
from plugins.arcface_torch.checkout import CheckoutError
from plugins.preprocess import FaceError
from tests.conftest import PATIENCE, ROOT, benchmark, encode

bench = benchmark('arcface_torch')

TRAIN = """
import argparse
import mxnet as mx
from torch.optim.lr_scheduler import _LRScheduler
from backbones import get_model
from utils.utils_config import get_config

if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    cfg = get_config(parser.parse_known_args()[1][0])
    model = get_model(cfg['network'], dropout=0.0, fp16=cfg['fp16'], num_features=cfg['embedding_size'])
    print('trained', type(model).__name__, cfg['batch_size'], mx.__version__)
"""
CONFIG = """
import importlib

def get_config(config_file):
    base = importlib.import_module('configs.base').config
    base.update(importlib.import_module('configs.' + config_file.split('/')[1]).config)
    return base
"""
BASE = """
config = dict(margin_list=(1.0, 0.5, 0.0), network='r50', resume=False, output=None, embedding_size=512, sample_rate=1,
              fp16=False, batch_size=128, optimizer='sgd', lr=0.1, weight_decay=5e-4, momentum=0.9, verbose=2000, num_workers=2)
"""


def function(name: str, parameters: str) -> str:
    """Source of a function, or of a class with a method."""
    owner, _, method = name.rpartition('.')
    body = f'def {method}({parameters}):\n    raise ValueError()\n'
    return f'class {owner}:\n' + '\n'.join(f'    {line}' for line in body.splitlines()) + '\n' if owner else body


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Path:
    """The parts of a checkout that the launcher touches, and no remembered or configured other one."""
    monkeypatch.setenv('XDG_CONFIG_HOME', str(tmp_path / 'config'))
    monkeypatch.delenv('ARCFACE_TORCH', raising=False)
    root = tmp_path / 'insightface' / 'recognition' / 'arcface_torch'
    for file, name, parameters in checkout.SEAMS:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, 'a') as out:
            out.write(function(name, parameters))
    (root / 'backbones' / '__init__.py').write_text(
        'def get_model(name, **kwargs):\n    if name == "r50":\n        return object()\n    raise ValueError()\n')
    (root / 'utils' / 'utils_config.py').write_text(CONFIG)
    (root / 'utils' / 'utils_distributed_sampler.py').write_text(function('sync_random_seed', 'seed=None, device="cuda"'))
    (root / 'utils' / '__init__.py').write_text('')
    (root / 'configs').mkdir()
    for name, text in (('__init__', ''), ('base', BASE), ('ms1mv3_r50', 'config = dict(network="r50")\n')):
        (root / 'configs' / f'{name}.py').write_text(text)
    (root / 'train_v2.py').write_text(TRAIN)
    return root


def launch(root: Path | None, cwd: Path, *words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), **({'ARCFACE_TORCH': str(root)} if root else {})}
    return subprocess.run([sys.executable, '-m', 'plugins.arcface_torch', *words], cwd=cwd, env=environment, text=True,
                          capture_output=True, timeout=PATIENCE)


class TestCheckout:
    def test_none_is_known(self, fake):
        with pytest.raises(CheckoutError, match=r'git clone --depth 1 https://github\.com/deepinsight/insightface'):
            checkout.locate()

    def test_root_or_folder_flag_variable_memory(self, fake, monkeypatch):
        assert checkout.locate(fake) == checkout.locate(fake.parents[1]) == fake
        checkout.remember(fake)
        assert checkout.locate() == fake
        monkeypatch.setenv('ARCFACE_TORCH', str(fake.parent / 'gone'))
        with pytest.raises(CheckoutError, match=r'gone \(ARCFACE_TORCH\) is not there'):
            checkout.locate()

    def test_user_without_a_home(self, fake, monkeypatch):
        """As in a container of a user that the system does not know."""
        def home():
            raise RuntimeError('Could not determine home directory.')
        monkeypatch.delenv('XDG_CONFIG_HOME')
        monkeypatch.setattr(Path, 'home', home)
        assert checkout.locate(fake) == fake
        with pytest.raises(CheckoutError, match=r'no home folder .* set ARCFACE_TORCH'):
            checkout.locate()
        monkeypatch.setenv('ARCFACE_TORCH', str(fake))
        assert checkout.locate() == fake

    def test_another_project(self, fake, tmp_path):
        with pytest.raises(CheckoutError, match='is another project'):
            checkout.locate(tmp_path)

    @pytest.mark.parametrize(('text', 'message'), [
        ('def get_model(name, pretrained):\n    pass\n', r'get_model\(name, \*\*kwargs\), but has get_model\(name,'),
        ('', r'should have get_model\(name, \*\*kwargs\), but lacks it.* git fetch --unshallow first'),
        ('def get_model(:\n', 'not Python')])
    def test_another_version(self, fake, text, message):
        (fake / 'backbones' / '__init__.py').write_text(text)
        with pytest.raises(CheckoutError, match=message):
            checkout.locate(fake)

    def test_what_it_can_run(self, fake):
        assert checkout.scripts(fake) == ['train_v2.py'] and checkout.upstream_networks(fake) == ['r50']
        (fake / 'train_v2.py').write_text('import os, nonesuch_a\ntry:\n    import nonesuch_b\nexcept ImportError:\n    pass\n'
                                          'from utils import utils_config\ndef f():\n    import nonesuch_c\n')
        assert checkout.missing_modules(fake, 'train_v2.py') == ['nonesuch_a', 'nonesuch_b']

    def test_what_is_imported_by_name_is_looked_for(self, fake, monkeypatch):
        (fake / 'configs' / 'base.py').write_text('from easydict import EasyDict\n')
        (fake / 'train_v2.py').write_text('from torch.utils.tensorboard import SummaryWriter\n'
                                          'from utils.utils_config import get_config\n')
        monkeypatch.setattr(checkout.importlib.util, 'find_spec', lambda name: name == 'torch' or None)
        for name in ('easydict', 'tensorboard'):
            monkeypatch.delitem(sys.modules, name, raising=False)
        assert checkout.missing_modules(fake, 'train_v2.py') == ['easydict', 'tensorboard']


class TestLaunch:
    def test_recipe_and_backbone_of_facezoo(self, fake, tmp_path, face_folder):
        before = bench.fingerprint(fake)
        ran = launch(fake, tmp_path, '--set', f'rec={face_folder}', '--set', 'num_classes=6', '--set', 'num_image=48', '--set',
                     'batch_size=16', 'train_v2.py', 'configs/fdfacenet_ms1mv3')
        assert ran.returncode == 0, ran.stderr
        assert 'trained FDFaceNet 16' in ran.stdout and bench.fingerprint(fake) == before
        assert 'lfw.bin is missing: no verification on lfw' in ran.stderr  # InsightFace says nothing
        assert ('mxnet-standin' in ran.stderr) == ('facezoo stand-in' in ran.stdout)  # announced when, and only when, used

    @pytest.mark.parametrize(('words', 'message'), [
        (['train_v3.py'], r"train_v3.py: no such script .*did you mean 'train_v2.py'"),
        (['--without', 'mxnet-standing', 'train_v2.py'], "no such shim; did you mean 'mxnet-standin'"),
        (['--set', 'rec=nowhere', 'train_v2.py', 'configs/fdfacenet_ms1mv3'], "rec='nowhere': there is no such data set"),
        (['train_v2.py', 'configs/fdfacenet_ms1mv4'], "no such recipe; did you mean 'fdfacenet_ms1mv3'")])
    def test_refusals(self, fake, tmp_path, words, message):
        ran = launch(fake, tmp_path, *words)
        assert ran.returncode == 1 and 'Traceback' not in ran.stderr
        assert re.search(message, ran.stderr), ran.stderr

    def test_networks(self, fake):
        get_model = bridge._registry_first(lambda name, **options: ('theirs', name), checkout.upstream_networks(fake))
        assert get_model('r50') == ('theirs', 'r50')
        assert get_model('fdfacenet', dropout=0.0, fp16=False, num_features=256).num_features == 256
        assert get_model('mobilefacenet_s', dropout=0, fp16=False).num_features == 512  # eval_ijbc.py asks so; its own is 128
        with pytest.raises(ValueError, match=r"neither facezoo nor InsightFace has it; did you mean 'fdfacenet'"):
            get_model('fdfacenett')
        with pytest.raises(ValueError, match='InsightFace feeds 112x112'):
            get_model('fdfacenet', input_size=96)

    @pytest.mark.parametrize('gpu', [True, False])
    def test_half_precision_is_for_a_gpu(self, fake, monkeypatch, gpu):
        """All recipes say fp16=True; InsightFace's networks heed it on a GPU, and most CPUs only emulate it."""
        monkeypatch.setattr('torch.cuda.is_available', lambda: gpu)
        get_model = bridge._registry_first(None, checkout.upstream_networks(fake))
        assert get_model('mobilefacenet_s', dropout=0.0, fp16=True, num_features=512).fp16 == gpu

    def test_foreign_modules_are_noticed(self, fake, monkeypatch):
        monkeypatch.setitem(sys.modules, 'losses', ModuleType('losses'))
        with pytest.raises(CheckoutError, match="the module 'losses'"):
            bridge._check_names(fake, 'train_v2.py', [])

    @pytest.mark.parametrize(('named', 'message'), [
        ('fdfacenet_ms1mv3', r"no such recipe; did you mean 'configs/fdfacenet_ms1mv3'\? \(write configs/NAME"),
        ('configs/zzz', r'no such recipe; known: base, cbam.* \(write configs/NAME')])
    def test_recipe_under_another_name(self, fake, named, message):
        with pytest.raises(LaunchError, match=message):
            bridge.load_config(bridge.Launch(fake, 'train_v2.py', (named,), {}, (bridge.RECIPES,)))

    def test_hidden_recipe(self, fake, tmp_path):
        (fake / 'configs' / 'fdfacenet_ms1mv3.py').write_text('config = dict(network="r50")\n')
        made = bridge.Launch(fake, 'train_v2.py', ('configs/fdfacenet_ms1mv3',), {}, (bridge.RECIPES,))
        with pytest.raises(LaunchError, match=r'hides .*rename your own recipe'):
            bridge.load_config(made)

    def test_inside_the_checkout_by_another_spelling(self, fake, tmp_path):
        (tmp_path / 'link').symlink_to(fake)
        ran = launch(tmp_path / 'link', fake, 'train_v2.py', 'configs/ms1mv3_r50')
        assert 'the recipe lacks rec, num_classes' in ran.stderr  # read: its configs are also ./configs, nothing is hidden


class TestShims:
    def test_probes_answer_and_names_differ(self):
        names = [shim.name for shim in compat.SHIMS]
        assert len(set(names)) == len(names) and all(shim.problem for shim in compat.SHIMS)
        for shim in compat.SHIMS:
            if shim.name != 'mxnet-standin':
                assert isinstance(shim.probe(), str)

    def test_slinear(self, monkeypatch):
        interpolate = pytest.importorskip('scipy.interpolate')
        monkeypatch.setattr(interpolate, 'interp1d', interpolate.interp1d)
        if not compat._probe_interp1d():
            pytest.skip('this SciPy interpolates over equal abscissas')
        compat._apply_interp1d()
        far, threshold = np.array([0.0, 0.0, 0.5, 1.0]), np.array([0.0, 0.1, 0.2, 0.3])
        assert interpolate.interp1d(far, threshold, kind='slinear')(0.75) == pytest.approx(0.25)
        assert interpolate.interp1d([0.0, 1.0], [0.0, 2.0], kind='slinear')(0.5) == pytest.approx(1.0)
        assert not compat._probe_interp1d()

    def test_scheduler(self, monkeypatch):
        from torch import zeros
        from torch.nn import Parameter
        from torch.optim import SGD, lr_scheduler
        monkeypatch.setattr(lr_scheduler, '_LRScheduler', lr_scheduler._LRScheduler)
        if not compat._probe_scheduler():
            pytest.skip('this PyTorch takes verbose=')
        compat._apply_scheduler()

        class Constant(lr_scheduler._LRScheduler):
            def get_lr(self): return [0.5]
        assert Constant(SGD([Parameter(zeros(1))], lr=1.0), -1, False).get_last_lr() == [0.5]
        assert not compat._probe_scheduler()

    def test_loader_error_ends_the_process(self, tmp_path):
        code = ('import queue, threading\nfrom plugins.arcface_torch import compat\ncompat._apply_loader()\n'
                'class BackgroundGenerator(threading.Thread):\n    def run(self): raise ValueError("record 40 is damaged")\n'
                'other = threading.Thread(target=lambda: 1 / 0)\n'  # any other thread may fail without ending the process
                'other.start()\nother.join()\n'
                'BackgroundGenerator(daemon=True).start()\nqueue.Queue().get()\n')
        ran = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
        assert ran.returncode == 1 and 'ZeroDivisionError' in ran.stderr
        assert 'record 40 is damaged' in ran.stderr and 'the training ends here' in ran.stderr


class TestStandin:
    """The API that the checkout uses, on the file that MXNet 1.9.1 wrote; pixels: benchmarks/mxnet_interop.py."""

    def test_reads_and_writes_as_mxnet(self, tmp_path):
        from plugins.arcface_torch import mxnet_standin as mx
        recorded = ROOT / 'tests' / 'data' / 'mxnet'
        reader = mx.MXIndexedRecordIO(str(recorded / 'mx.idx'), str(recorded / 'mx.rec'), 'r')
        writer = mx.MXIndexedRecordIO(str(tmp_path / 'a.idx'), str(tmp_path / 'a.rec'), 'w')
        for key in reader.keys:
            header, image = mx.unpack(reader.read_idx(key))
            writer.write_idx(key, mx.pack(header, image))
        writer.close()
        assert len(reader.keys) > 25
        for suffix in ('rec', 'idx'):
            assert (tmp_path / f'a.{suffix}').read_bytes() == (recorded / f'mx.{suffix}').read_bytes()

    def test_damaged_image_names_its_record(self, tmp_path, crops):
        from plugins.arcface_torch import mxnet_standin as mx
        writer = mx.MXIndexedRecordIO(str(tmp_path / 'a.idx'), str(tmp_path / 'a.rec'), 'w')
        for key, data in enumerate((encode(crops[0]), encode(crops[0])[:900])):
            writer.write_idx(key, mx.pack(mx.IRHeader(0, 1.0, key, 0), data))
        writer.close()
        reader = mx.MXIndexedRecordIO(str(tmp_path / 'a.idx'), str(tmp_path / 'a.rec'), 'r')
        assert mx.imdecode(mx.unpack(reader.read_idx(0))[1]).shape == (112, 112, 3)
        with pytest.raises(FaceError, match=r'a\.rec, record 1'):
            mx.imdecode(mx.unpack(reader.read_idx(1))[1])


@pytest.mark.skipif('ARCFACE_TORCH' not in os.environ, reason='needs a checkout of insightface: set ARCFACE_TORCH to it')
class TestRealCheckout:
    def test_trains_and_verifies(self, tmp_path):
        place = bench.Bench(tmp_path, checkout.locate())
        before = bench.fingerprint(place.checkout)
        bench.write_data(tmp_path)
        status, text, _ = place.launch(*bench.settings(place, network='tiny_face', num_epoch=1, verbose=6),
                                       'train_v2.py', 'configs/fdfacenet_ms1mv3')
        found = bench.logged(text)
        assert status == 0 and found['last_step'] == 6 and 0 <= found['accuracy'] <= 1, text[-2000:]
        assert bench.fingerprint(place.checkout) == before
