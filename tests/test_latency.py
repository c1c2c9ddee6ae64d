"""The papers' latency formulas, fits against the published ones, predictions that refuse to extrapolate."""

import json

import numpy as np
import pytest
import torch

import zoo
from zoo.cli import main
from zoo.latency import (
    DATA,
    PAPER_PROFILES,
    LatencyModel,
    OutOfRange,
    Point,
    bench_points,
    features_of,
    fit,
    flops_rate,
    load_latency,
    paper_points,
    ratio_feature_map,
    ratio_macs,
    ratio_macs_fast,
    widest,
)


def test_formulas_of_paper_001():
    assert ratio_macs(128) == pytest.approx(1152 / 137)  # "8x"
    assert ratio_feature_map(128, 128) == 0.5
    assert ratio_macs_fast(128, 2) == pytest.approx(0.476, abs=5e-4)
    assert ratio_macs_fast(128, 4) == pytest.approx(1.90, abs=5e-3)
    rates = [flops_rate(*figures) for figures in ((2600, 385.3), (333, 159.8), (472, 196.4), (719, 282.5))]
    assert rates == pytest.approx([6748, 2084, 2403, 2545], abs=1)


def starts(*prefixes):
    return [p for p in paper_points('raspberry_pi_4b_ms') if p.name.startswith(prefixes) and 'Pooling' not in p.name]


@pytest.mark.parametrize(('points', 'features', 'r2', 'mape', 'loo'), [
    (starts('CNN-14-DS'), ['macs'], 0.999, 0.014, 0.031),
    (starts('CNN-8-FD'), ['macs'], 1.0, 0.004, 0.007),
    (starts('CNN-14-DS', 'CNN-8-FD'), ['macs'], 0.864, 0.204, 0.276),
    (starts('CNN-14-DS', 'CNN-8-FD'), ['macs', 'feature_map'], 0.996, 0.034, 0.043),
    (paper_points('raspberry_pi_4b_ms'), ['macs', 'feature_map'], 0.956, 0.33, 0.38),
    (paper_points('jetson_tx2_ms'), ['macs', 'feature_map'], 0.21, 0.59, 0.64),
    (paper_points('jetson_tx2_ms', ('layers',)), ['layers'], 0.989, 0.053, 0.060),
], ids=str)
def test_known_fits_of_the_printed_times(points, features, r2, mape, loo):
    model = fit(points, features, 'paper')
    assert (model.r2, model.mape, model.loo) == (pytest.approx(r2, abs=2e-3), pytest.approx(mape, abs=5e-3),
                                                 pytest.approx(loo, abs=5e-3))


@pytest.mark.parametrize('name', PAPER_PROFILES)
def test_shipped_models_are_those_fits(name):
    wanted, shipped = PAPER_PROFILES[name], load_latency(name)
    again = fit(paper_points(wanted.column, wanted.features, wanted.most_macs), wanted.features, wanted.device,
                relative=wanted.relative)
    assert again.coefficients == pytest.approx(shipped.coefficients, rel=1e-6)
    assert again.loo == pytest.approx(shipped.loo, rel=1e-6)


def test_the_table_of_points_counts_what_the_zoo_counts():
    counted = features_of(zoo.profile(zoo.create('fdfacenet')))
    row = next(p for p in paper_points('raspberry_pi_4b_ms') if p.name == 'FDFN')
    for name in ('weights', 'layers', 'conv3x3', 'strided', 'pointwise', 'depthwise'):
        assert row.features[name] == pytest.approx(counted[name], rel=1e-5), name
    assert counted['layers'] == 10 and row.features['macs'] == 130


def test_known_coefficients_are_found_and_saved(tmp_path):
    rng = np.random.default_rng(0)
    points = [Point(str(i), {'macs': b, 'feature_map': f}, 0.2 * b + 0.5 * f + 7) for i, (b, f) in enumerate(
        rng.uniform((100, 5), (900, 90), (9, 2)))]
    model = fit(points, ['macs', 'feature_map'], 'exact')
    assert model.coefficients == pytest.approx({'macs': 0.2, 'feature_map': 0.5}) and model.constant == pytest.approx(7)
    assert model.loo < 1e-6
    model.save(tmp_path / 'device.json')
    assert load_latency(tmp_path / 'device.json') == model
    with pytest.raises(OutOfRange, match='macs = 5000 lies outside'):
        model.predict({'macs': 5000, 'feature_map': 20})


def test_a_kind_of_layer_that_one_network_has_or_none():
    """Leaving out the one that has it, or without any, nothing is known of its time: it is not predicted."""
    points = [Point(str(i), {'macs': i, 'depthwise': i == 3, 'strided': 0}, 2 * i + 5 * (i == 3)) for i in range(1, 8)]
    model = fit(points, ['macs', 'depthwise', 'strided'], 'x', constant=False)
    assert model.coefficients == pytest.approx({'macs': 2, 'depthwise': 5, 'strided': 0}, abs=1e-6)
    with pytest.raises(OutOfRange, match='strided = 1 lies outside'):
        model.predict({'macs': 3, 'depthwise': 0, 'strided': 1})


def test_predictions_keep_to_what_was_measured():
    """A tenth of the upper end to either side, of every feature."""
    ranges = {'macs': (100, 200), 'layers': (10, 20)}
    model = LatencyModel('x', {'macs': 0.5, 'layers': 2.0}, 3.0, False, 9, 1.0, 0.0, 0.0, ranges)
    assert model.predict({'macs': 150, 'layers': 12}) == 0.5 * 150 + 2 * 12 + 3
    assert model.predict({'macs': 80, 'layers': 8}) == 59 and model.predict({'macs': 220, 'layers': 22}) == 157
    for features, name in (({'macs': 79, 'layers': 12}, 'macs'), ({'macs': 221, 'layers': 12}, 'macs'),
                           ({'macs': 150, 'layers': 7.9}, 'layers'), ({'macs': 150, 'layers': 22.1}, 'layers')):
        with pytest.raises(OutOfRange, match=f'{name} = .* lies outside the measured'):
            model.predict(features)


@pytest.mark.parametrize('name', PAPER_PROFILES)
def test_more_work_than_was_measured_is_not_predicted(name):
    """Nor by a model of layers alone: VGG16 has no more than others."""
    with torch.device('meta'):
        features = features_of(zoo.profile(zoo.create('vgg16', input_size=320)))
    model = load_latency(name)
    with pytest.raises(OutOfRange):
        model.predict(features)
    less = dict.fromkeys(('conv3x3', 'strided', 'pointwise'), 200) | {'macs': 800, 'feature_map': 99}
    assert model.predict(features | less) > 0


def test_errors_name_what_is_wrong(tmp_path):
    points = paper_points('jetson_tx2_ms')
    with pytest.raises(ValueError, match="unknown feature 'flops'"):
        fit(points, ['flops'], 'x')
    with pytest.raises(ValueError, match="feature 'macs' is named twice"):
        fit(points, ['macs', 'macs'], 'x')
    with pytest.raises(ValueError, match='2 networks for 2 coefficients'):
        fit([*points[:2], *points[:2]], ['macs'], 'x')
    with pytest.raises(ValueError, match='Lightfacenet has no value'):
        fit(points, ['layers'], 'x')
    with pytest.raises(FileNotFoundError, match='shipped: jetson-tx2-paper'):
        load_latency('pi9')
    (tmp_path / 'bad.json').write_text('[]')
    with pytest.raises(ValueError, match=r"bad.json is not the JSON of 'facezoo bench'"):
        bench_points(tmp_path / 'bad.json')


def test_a_network_that_was_measured_twice_is_left_out_whole():
    points = [Point(str(i), {'macs': i}, float(i * i)) for i in range(1, 6)]
    once, twice = fit(points, ['macs'], 'x'), fit([*points, *points], ['macs'], 'x')
    assert twice.loo == pytest.approx(once.loo) and twice.points == 5


@pytest.mark.parametrize(('time', 'machine', 'message'), [
    (0, {'processor': 'P', 'date': '2026-01-01'}, 'fdfacenet has p50 0, which is no time'),
    (None, {'processor': 'P', 'date': '2026-01-01'}, 'TypeError'), (3.0, {'processor': 'P'}, "KeyError: 'date'"),
    (3.0, None, 'TypeError')])
def test_damaged_measurements_are_named(time, machine, message, tmp_path):
    rows = [{'label': 'fdfacenet', 'runtime': 'ncnn', 'batch': 1, 'threads': 1, 'p50': time}]
    (tmp_path / 'b.json').write_text(json.dumps({'results': rows, 'machine': machine}))
    with pytest.raises(ValueError, match=rf"b.json is not the JSON of 'facezoo bench' \(.*{message}"):
        bench_points(tmp_path / 'b.json')


def test_design_gives_the_widest_that_fits():
    model = load_latency('raspberry-pi-4b-paper')
    width, milliseconds, _ = widest('fdfacenet', model, 30)
    wider = model.predict(features_of(zoo.profile(zoo.create('fdfacenet', width=width + 0.05))))
    assert milliseconds <= 30 < wider
    with pytest.raises(ValueError, match='no width of fdfacenet'):
        widest('fdfacenet', model, 1)


@pytest.mark.parametrize(('budget', 'said'), [(1000, True), (12, False)])
def test_design_says_where_its_knowledge_ends(budget, said, caplog):
    """Not where wider ones are too slow, though the widest are not predicted."""
    model = LatencyModel('x', {'macs': 0.1}, 0.0, False, 9, 1.0, 0.0, 0.0, {'macs': (20, 200)})
    width, milliseconds, _ = widest('fdfacenet', model, budget, 0.25)
    assert width == (1.25 if said else 0.75) and milliseconds <= budget
    assert [record.getMessage().partition(': ')[2][:6] for record in caplog.records] == ['macs ='] * said


def test_fit_from_a_measurement(tmp_path, capsys):
    rows = [{'label': name, 'runtime': 'ncnn', 'batch': 1, 'threads': 1, 'p50': ms} for name, ms in
            (('fdfacenet', 10.0), ('mobilefacenet', 24.0), ('shufflefacenet', 15.0), ('nfacenet', 30.0))]
    (tmp_path / 'bench.json').write_text(json.dumps({'results': rows, 'machine': {'processor': 'P', 'date': '2026-01-01'}}))
    assert main(['latency', 'fit', str(tmp_path / 'bench.json'), '--out', str(tmp_path / 'p.json'), '--features', 'macs']) == 0
    assert main(['latency', 'predict', 'fdfacenet', 'iresnet50', '--device', str(tmp_path / 'p.json'), '--json']) == 1
    out = capsys.readouterr().out
    answer = json.loads(out[out.index('{'):])
    assert 5 < answer['milliseconds']['fdfacenet'] < 20 and 'outside' in answer['refused']['iresnet50']
    assert 'P, ncnn, 1 threads' in answer['device']


def test_shipped_data_is_packaged():
    assert {path.stem for path in (DATA / 'latency').glob('*.json')} == set(PAPER_PROFILES)
