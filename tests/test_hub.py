"""Names to weights: hashes, damaged files, other architectures, downloads."""

from __future__ import annotations

import copy
import dataclasses
import functools
import http.server
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from plugins import registry
from plugins.files import sha256_file
from plugins.preprocess import PictureNorm, Preprocess
from plugins.registry import create_backbone
from zoo import hub
from zoo.cli import main
from zoo.hub import HubError, resolve, weights_path
from zoo.model_card import CardError, Weights, read_card
from zoo.pipeline.threshold import FARS
from zoo.runtime import open_embedder
from zoo.runtime.torch import TorchEmbedder
from zoo.weights import WeightsError, read_state, save_weights


@pytest.fixture(scope='module')
def bundled():
    return hub.BUNDLED / zoo.card('fdfacenet').weights['default'].file


def entry(path, **changes) -> Weights:
    return dataclasses.replace(
        Weights(file=path.name, sha256=sha256_file(path), licence='', data='', recipe='', num_features=512), **changes)


def test_weights_are_named_by_model_or_file(bundled, tmp_path):
    assert weights_path('fdfacenet') == bundled == weights_path(bundled) and weights_path('fdfacenet.lowquality') != bundled
    assert weights_path('shufflefacenet') == Path('shufflefacenet'), 'without trained weights it can only be a file'


def test_load_is_offline_and_in_evaluation_mode():
    model = zoo.load('fdfacenet')
    assert not model.training and model.preprocess == zoo.card('fdfacenet').preprocess
    again = zoo.load('fdfacenet.default')
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_network_in_training_is_embedded_in_evaluation_mode(small_net, faces):
    """As a measurement during a training needs it; the mode is put back."""
    net = copy.deepcopy(small_net).train()
    found, expected = (TorchEmbedder(each, small_net.preprocess)(faces[:4]) for each in (net, small_net))
    np.testing.assert_array_equal(found, expected)
    assert all(module.training for module in net.modules())


def test_every_weights_entry_is_bundled_and_verified():
    names = zoo.list_models(weights=True)
    assert {'fdfacenet', 'retinaface_mnet025'} <= set(names)
    for name in names:
        for weights in zoo.card(name).weights.values():
            assert resolve(weights).is_file()
            assert weights.licence and weights.data and weights.recipe and weights.metrics
            assert set(weights.thresholds) == ({'score'} if zoo.card(name).task == 'detection' else set(FARS))


def test_bundled_weights_need_no_home(bundled, monkeypatch):
    """As in a container of a user that the system does not know; downloads say what to set."""
    def home():
        raise RuntimeError('Could not determine home directory.')
    monkeypatch.delenv('FACEZOO_CACHE', raising=False)
    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    monkeypatch.setattr(Path, 'home', home)
    assert weights_path('fdfacenet') == bundled
    with pytest.raises(HubError, match=r'no home folder .* set FACEZOO_CACHE'):
        resolve(entry(bundled, file='other.bin', url='http://127.0.0.1/other.bin'))


def test_unknown_names():
    with pytest.raises(CardError, match="did you mean 'fdfacenet'"):
        zoo.load('fdfacenett')
    with pytest.raises(LookupError, match=r"no trained weights 'lowlight' \(tags: default"):
        zoo.load('fdfacenet.lowlight')
    with pytest.raises(LookupError, match=r'it has none yet.*zoo\.create'):
        zoo.load('nfacenet_nogdc')
    with pytest.raises(LookupError, match=r"untrained with plugins\.registry\.create_detector\('ssd_mobilenetv2'\)"):
        zoo.load('ssd_mobilenetv2')  # which zoo.create does not know
    with pytest.raises(FileNotFoundError):
        zoo.load('nowhere.safetensors')


def test_truncated_and_damaged_files(bundled, tmp_path):
    (tmp_path / 'cut.safetensors').write_bytes(bundled.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match='not a whole safetensors'):
        zoo.load(tmp_path / 'cut.safetensors', network='fdfacenet')
    with pytest.raises(WeightsError, match='not a whole safetensors'):
        zoo.load('fdfacenet', weights=tmp_path / 'cut.safetensors')
    (tmp_path / 'x.pt').write_bytes(b'PK nothing')
    with pytest.raises(WeightsError, match='cannot be read'):
        read_state(tmp_path / 'x.pt')
    (tmp_path / 'x.pt').write_bytes(b'')
    with pytest.raises(WeightsError, match=r'it is empty or cut short\); copy it again'):
        read_state(tmp_path / 'x.pt')


def test_files_of_another_kind_say_what_to_do(bundled, tmp_path):
    """Torch's own message advises to load them with ``weights_only=False``, which would run what is in them."""
    torch.save(torch.nn.Linear(2, 2), tmp_path / 'whole.pt')
    (tmp_path / 'renamed.pt').write_bytes(bundled.read_bytes())
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / 'script.pt')
    for name in ('whole.pt', 'renamed.pt', 'script.pt'):
        with pytest.raises(WeightsError, match=rf'{name}: cannot be read as weights: not a PyTorch file, .*state_dict\(\)'):
            zoo.load('fdfacenet', weights=tmp_path / name)


def test_wrong_hash_is_refused(bundled, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, 'BUNDLED', tmp_path)
    data = bytearray(bundled.read_bytes())
    data[-1] ^= 1
    (tmp_path / bundled.name).write_bytes(data)
    with pytest.raises(HubError, match=r'sha256 is .* the card says'):
        resolve(zoo.card('fdfacenet').weights['default'])


@pytest.mark.parametrize('save', [torch.save, lambda evil, path: path.write_bytes(pickle.dumps(evil, 2))], ids=['zip', 'bare'])
def test_pickle_is_not_executed(save, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'executed'),)
    save({'weight': Evil()}, tmp_path / 'evil.pt')
    with pytest.raises(WeightsError, match='cannot be read as weights'):
        read_state(tmp_path / 'evil.pt')
    assert not (tmp_path / 'executed').exists()


@pytest.mark.parametrize(('name', 'options', 'message'), [
    ('nfacenet_nogdc', {}, r"weights of 'fdfacenet', asked for 'nfacenet_nogdc'"), ('fdfacenet', {'width': 0.5}, r'needs \('),
    ('fdfacenet', {'num_features': 128}, r'needs \('),
    ('mobilefacenet', {}, r'mobilefacenet|MobileFaceNet')])
def test_other_architectures_are_refused(bundled, name, options, message):
    with pytest.raises(WeightsError, match=message):
        zoo.load(name, weights=bundled, **options)


def test_forms_of_state_dicts(bundled, tmp_path):
    state = load_file(bundled)
    forms = {'bare.pt': state, 'wrapped.pt': {'state_dict': state}, 'ddp.pth': {f'module.{k}': v for k, v in state.items()},
             'arcface.pt': {'epoch': 1, 'state_dict_backbone': state}}
    for name, form in forms.items():
        torch.save(form, tmp_path / name)
        model = zoo.load('fdfacenet', weights=tmp_path / name)
        assert torch.equal(model.state_dict()['head.1.weight'], state['head.1.weight'])
    save_file(state, tmp_path / 'anonymous.safetensors')
    with pytest.raises(WeightsError, match='network=NAME'):
        zoo.load(tmp_path / 'anonymous.safetensors')
    torch.save({'extra': torch.zeros(1), **state}, tmp_path / 'extra.pt')
    with pytest.raises(WeightsError, match=r"'extra' has no place"):
        zoo.load('fdfacenet', weights=tmp_path / 'extra.pt')


def test_a_file_says_what_it_is(tmp_path):
    model = zoo.create('fdfacenet', width=0.5, num_features=64)
    save_weights(tmp_path / 'mine.safetensors', model, 'fdfacenet', {'width': 0.5})
    again = zoo.load(tmp_path / 'mine.safetensors')
    assert again.num_features == 64 and zoo.profile(again).params == zoo.profile(model).params


@pytest.mark.parametrize('header', ['{', '[]', '{"network": 1}', '{"network_args": []}', '{"num_features": "512"}'])
def test_a_header_that_says_something_else(header, tmp_path):
    save_file({'weight': torch.zeros(1)}, tmp_path / 'odd.safetensors', metadata={'facezoo': header})
    with pytest.raises(WeightsError, match=r'odd\.safetensors: not a whole safetensors file'):
        zoo.load(tmp_path / 'odd.safetensors', network='fdfacenet')


def test_a_backbone_that_computes_while_it_is_built(tmp_path, monkeypatch, capsys):
    """As many do for the rates of stochastic depth: such tensors must have values."""
    def deep_face(**options):
        return create_backbone('fdfacenet', width=torch.linspace(0.25, 0.5, 4)[0].item(), **options)

    monkeypatch.setitem(registry._BACKBONES._entry_points, 'deep_face', deep_face)
    torch.save(zoo.create('deep_face', num_features=96).state_dict(), tmp_path / 'deep.pt')
    assert zoo.load(tmp_path / 'deep.pt', network='deep_face').num_features == 96
    main(['recipe', 'check', 'fdfacenet_ms1mv3', 'network=deep_face', 'network_args={}'])
    assert 'meta' not in ''.join(capsys.readouterr())


def test_a_network_of_another_size_eats_that_size(tmp_path):
    args = {'width': 0.25, 'num_features': 16, 'input_size': 96}
    save_weights(tmp_path / 'mine.safetensors', zoo.create('fdfacenet', **args), 'fdfacenet', args)
    model = zoo.load(tmp_path / 'mine.safetensors')
    assert model.input_size == (96, 96) and model.preprocess == Preprocess(96)
    assert open_embedder(tmp_path / 'mine.safetensors')(np.zeros((1, 96, 96, 3), np.uint8)).shape == (1, 16)
    assert zoo.load('retinaface_mnet025').preprocess == PictureNorm()


def test_what_would_not_be_heeded_is_refused(bundled):
    """Another network beside a name, and a second file, were not looked at."""
    with pytest.raises(ValueError, match="network='mobilefacenet': 'fdfacenet' already says its backbone"):
        open_embedder('fdfacenet', network='mobilefacenet')
    with pytest.raises(ValueError, match='both are weights files'):
        zoo.load(bundled, weights='other.safetensors')
    assert zoo.load('fdfacenet', weights=bundled, network='fdfacenet').num_features == 512


@pytest.fixture
def server(tmp_path):
    (tmp_path / 'remote').mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / 'remote'))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield tmp_path / 'remote', f'http://127.0.0.1:{httpd.server_address[1]}'
        httpd.shutdown()


def test_download(server, bundled, tmp_path, monkeypatch):
    folder, url = server
    monkeypatch.setenv('FACEZOO_CACHE', str(tmp_path / 'cache'))
    (folder / 'w.bin').write_bytes(b'weights')
    weights = entry(folder / 'w.bin', url=f'{url}/w.bin')
    with pytest.raises(HubError, match='FACEZOO_OFFLINE is set'):
        resolve(weights)
    monkeypatch.setenv('FACEZOO_OFFLINE', '0')
    with pytest.raises(HubError, match=rf'^{url}/w\.bin: sha256 is .* load again'):
        resolve(dataclasses.replace(weights, sha256='0' * 64))
    assert not list((tmp_path / 'cache' / 'weights').iterdir()), 'a bad download must not be kept'
    assert resolve(weights).read_bytes() == b'weights'
    (folder / 'w.bin').unlink()
    assert resolve(weights).read_bytes() == b'weights', 'the second time comes from the cache'
    with pytest.raises(HubError, match='cannot download'):
        resolve(entry(bundled, file='other.bin', url=f'{url}/missing.bin'))


def test_a_server_that_breaks_off(bundled, tmp_path, monkeypatch):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header('Transfer-Encoding', 'chunked')
            self.end_headers()
            self.wfile.write(b'1000\r\nweights')

    monkeypatch.setenv('FACEZOO_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('FACEZOO_OFFLINE', '0')
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{httpd.server_address[1]}/w.bin'
        with pytest.raises(HubError, match=rf'cannot download {url}: IncompleteRead'):
            resolve(entry(bundled, file='other.bin', url=url))
        httpd.shutdown()
    assert not list((tmp_path / 'cache' / 'weights').iterdir())


def test_many_at_once_get_one_whole_file(server, tmp_path, monkeypatch):
    """Workers that start together on an empty cache."""
    folder, url = server
    monkeypatch.setenv('FACEZOO_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('FACEZOO_OFFLINE', '0')
    content = bytes(range(256)) * 20_000
    (folder / 'w.bin').write_bytes(content)
    weights = entry(folder / 'w.bin', url=f'{url}/w.bin')
    with ThreadPoolExecutor(8) as threads:
        paths = list(threads.map(lambda _: resolve(weights), range(8)))
    assert len(set(paths)) == 1 and paths[0].read_bytes() == content
    assert [p.name for p in (tmp_path / 'cache' / 'weights').iterdir()] == ['w.bin'], 'nothing half-written is left'


CARD = 'summary: x\npaper: y\nfidelity: exact\nparams: 1\nmacs: 1'


@pytest.mark.parametrize(('text', 'message'), [
    ('summary: [', 'not YAML'), ('- a', 'must be a mapping'), ('summary: x', 'missing paper, fidelity, params, macs'),
    ('summary: x\npaper: y\nfidelity: exakt\nparams: 1\nmacs: 1', "'exakt' is none of"),
    ('summary: x\npaper: y\nfidelity: near\nparams: 1\nmacs: 1', 'must list them'),
    ('sumary: x', "unknown field 'sumary'; did you mean 'summary'"),
    ('summary: x\npaper: y\nfidelity: exact\nparams: 1\nmacs: 1\nweights: {default: {file: a}}',
     r'weights\.default: missing sha256'),
    (f'{CARD}\nweights:', 'weights: None must be a mapping; leave it out'),
    (f'{CARD}\nweights: {{default: }}', r'weights\.default: must be a mapping'),
    (f'{CARD}\npreprocess: [1]', r'preprocess: \[1\] must be a mapping'),
    (f'{CARD}\npreprocess: {{std: 0}}', r'x\.yaml: preprocess: .*std'),
    (f'{CARD}\npreprocess: {{colour: YUV}}', r'x\.yaml: preprocess: .*YUV'),
    (f'{CARD}\ndeviations: it has none', "deviations: 'it has none' must be a list"),
    (f'{CARD}\nnum_features: many', "num_features: 'many' must be a whole number"),
    (f'{CARD}\nweights: {{default: {{file: a, sha256: 12, licence: b, data: c, recipe: d}}}}',
     r'weights\.default: sha256: 12 must be a text, in quotes')])
def test_malformed_cards(tmp_path, text, message):
    (tmp_path / 'x.yaml').write_text(text)
    with pytest.raises(CardError, match=message):
        read_card(tmp_path / 'x.yaml')
