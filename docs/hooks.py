"""What the documentation takes from the cards: a page a model for the site, and the table of the README.

  mkdocs build --strict        the site, with the pages made here
  python docs/hooks.py         write the README's table again
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from plugins.files import write_atomic  # noqa: E402
from recipes.experiments import list_studies, load_study  # noqa: E402
from recipes.report import report  # noqa: E402
from zoo.card_page import model_page, models_table, weights_table  # noqa: E402
from zoo.model_card import card, list_models  # noqa: E402
from zoo.tables import markdown_table  # noqa: E402


def fill(text: str) -> str:
    """``text`` with what stands between ``<!-- weights -->`` and ``<!-- /weights -->``, and so on, made anew."""
    tables = {'weights': weights_table, 'speed': speed_table, 'artefacts': artefacts_table, 'system': system_table}
    for name, table in tables.items():
        before, begin, rest = text.partition(f'<!-- {name} -->\n')
        _, end, after = rest.partition(f'<!-- /{name} -->')
        text = f'{before}{begin}\n{table()}\n{end}{after}'
    return text


def speed_table() -> str:
    """Medians of single faces by model and runtime, and where they were measured."""
    claims = json.loads((ROOT / 'results' / 'claims.json').read_text())
    machine, found = claims['machine'], {(r['label'], r['runtime']): r for r in claims['results']}
    rows = [[f'`{name}`', f'{card(name).macs / 1e6:.0f} M', f'{found[name, "ncnn"]["model_mb"]:.1f} MB',
             *(f'{found[name, runtime]["p50"]:.2f} ms' for runtime in ('ncnn', 'onnxruntime'))]
            for name in dict.fromkeys(label for label, _ in found)]
    return (f'{machine["processor"]}, one thread, FP32, one face, medians, {machine["date"][:10]} (`facezoo bench`):\n\n'
            + markdown_table(['model', 'MACs', 'NCNN file', 'NCNN', 'onnxruntime'], rows))


def artefacts_table() -> str:
    """The bundled FDFaceNet in every form that runs here and passed its gates."""
    report = json.loads((ROOT / 'results' / 'deploy_report.json').read_text())
    machine = report['machine']
    rows = [[f'{r["form"]} {r["precision"]}', f'{r["megabytes"]:.1f} MB', f'{100 * r["accuracy"]:.2f} %',
             f'{r["latency_ms"]:.2f} ms'] for r in report['rows'] if r['passed'] and r['latency_ms']]
    return (f'`{report["model"]}`; {machine["processor"]}, one thread, one face, medians, {machine["date"]} '
            f'(`facezoo deploy-report`); {report["torch"]["pairs"]} pairs of held-out identities, PyTorch '
            f'{100 * report["torch"]["accuracy"]:.2f} %, the artefacts at its thresholds:\n\n'
            + markdown_table(['artefact', 'file', 'accuracy', 'a face'], rows))


def system_table(every: bool = False) -> str:
    """Pictures a second of the whole system beside InsightFace's, all cores; of each system the best way, or every way."""
    found = json.loads((ROOT / 'results' / 'album_speed.json').read_text())
    machine, pictures, video = found['machine'], found['pictures'], found['video']
    shown = [name for name in next(iter(pictures.values())) if every or not name.endswith(' threads') or 'Face' in name]
    rows = [[name, *(f'{each[name]["pictures_a_second"]:.0f} ({each[name]["ratio"]:.1f}x)' for each in pictures.values())]
            for name in shown]
    rates = ', '.join(f'{way} {rate:.0f}' for way, rate in video['frames_a_second'].items())
    older = json.loads((ROOT / 'results' / 'album_speed_avx2.json').read_text())['pictures'].values()
    plain, whole = (', '.join(f'{each[f"onnxruntime{bits}, 2 pictures at a time"]["ratio"]:.1f}x' for each in older)
                    for bits in ('', ', 8 bits'))
    return (f'{machine["processor"]}, {found["cores"]} cores, {machine["date"]}; JPEG files of at most '
            f'{max(map(max, found["sizes"].values()))} pixels, read, searched and embedded '
            f'{"with mirrored faces" if found["flip"] else "without mirrored faces (`--no-flip`)"}; pictures a second '
            '(`benchmarks/album_speed.py`). `FaceAnalysis` enlarges and pads a picture to 640x640 before it searches for '
            'faces; facezoo does not:\n\n' + markdown_table(['system', *pictures], rows).strip()
            + f'\n\nFrames a second of a {"x".join(map(str, video["size"]))} video with '
            f'{" to ".join(map(str, video["faces_a_frame"]))} faces, onnxruntime: {rates}.\n\n'
            'On a processor with AVX2 alone (no AVX512, no 8-bit dot products) onnxruntime with 2 pictures at a time is '
            f'{plain} as fast as `FaceAnalysis`; in 8 bits, {whole} (`results/album_speed_avx2.json`).\n')


def measured_page() -> str:
    """What ``results/`` holds of speed and accuracy, with the command of each; nothing on the page is typed."""
    results = {path.stem: json.loads(path.read_text()) for path in (ROOT / 'results').glob('*.json')}
    claims, lowres, loading, score, layers, startup, sizes, training, artefacts = (results[name] for name in (
        'claims', 'lowres', 'loading', 'detector_score', 'ncnn_profile', 'startup', 'install_size', 'training',
        'deploy_report'))
    machine = f'{claims["machine"]["processor"]}, {claims["machine"]["cores"]} cores, {claims["machine"]["date"]}'
    parts = ['# What is measured',
             'Every table is made from a file in `results/`; `python -m benchmarks --list` shows the commands.',
             f'## Recognisers on this CPU\n\nOne thread, batch 1, in turns; {machine}. Ratio: time over that of the first row.',
             markdown_table(['model', 'runtime', 'p50 ms', 'p90 ms', 'ms of processor time', 'ratio', 'peak MB'], [
                 [r['label'], r['runtime'], *(_rounded(r.get(key), 2) for key in ('p50', 'p90', 'cpu', 'ratio')),
                  f'{r["peak_mb"]:.0f}']
                 for r in claims['results']]),
             f'## Low resolution\n\nAccuracy (TAR at FAR 1e-3) in percent on {lowres["set"]}, both images degraded, blur sigma '
             f'{lowres["sigma"]:g}: `{lowres["command"]}`',
             markdown_table(['weights', *next(iter(lowres['models'].values()))], [
                 [model, *(f'{100 * r["accuracy"]:.2f} ({100 * r["tar@1e-3"]:.1f})' for r in rows.values())]
                 for model, rows in lowres['models'].items()]),
             *_crop_faults(results['crop_faults']), *_impostors(results['impostors']),
             f"## FDFaceNet's artefacts\n\n`{artefacts['command']}` on {artefacts['torch']['pairs']} pairs of identities not "
             'trained on, at the thresholds of PyTorch; TensorRT rows are computed on the CPU by the rules of each precision.',
             markdown_table(['artefact', 'MB', 'least cosine', 'accuracy', 'TAR@FAR 1e-3', 'ms here', 'gate'], [
                 [' '.join(filter(None, (r['form'], r['target'], r['precision']))), _rounded(r['megabytes'], 2),
                  _rounded(r['min_cosine'], 5), _rounded(100 * r['accuracy'], 2), _rounded(100 * r['tar'], 2),
                  _rounded(r['latency_ms'], 2), 'passed' if r['passed'] else r['reason']]
                 for r in artefacts['rows']]),
             f'## Lowest score of a face\n\n`{score["model"]}`: {score["score"]:g}, {score["rule"]}; {score["conditions"]}.',
             markdown_table(['score', 'recall', 'precision', 'false alarms a picture'], [
                 [at, *row.values()] for at, row in score['table'].items() if at[-1] in '05' or float(at) == score['score']]),
             "## The system beside InsightFace's FaceAnalysis\n\nSame ONNX files and pictures, one thread, in turns; "
             f'{results["system_speed"]["conditions"]}. The load of the machine was '
             f'{results["system_speed"]["machine"]["load"]}: compare processor time. FaceAnalysis enlarges pictures below '
             '640 pixels before it looks for faces, so that landmarks and embeddings of very small faces differ.',
             markdown_table(['picture', 'system', 'faces', 'ms', 'ms of processor time', 'detect', 'embed', 'times as fast',
                             'by processor time'], [
                 [picture, system, *(row[k] for k in ('faces', 'ms', 'cpu_ms', 'detect', 'embed', 'ratio', 'ratio_cpu'))]
                 for picture, rows in results['system_speed']['pictures'].items() for system, row in rows.items()]),
             markdown_table(['system', 'ms of processor time without faces', 'for each face', 'peak MB'], [
                 [system, row['cpu_ms_without_faces'], row['cpu_ms_a_face'], results['system_speed']['peak_mb'][system]]
                 for system, row in results['system_speed']['growth'].items()]),
             f'## The system with all cores\n\n{system_table(every=True)}',
             f'## Where NCNN spends its time\n\n`{layers["command"]}`, one thread: `{layers["model"]}` as pnnx converts '
             'it, and as facezoo exports it, without Winograd on maps of a few tiles.',
             markdown_table(['layer', 'output', 'million MACs', 'converted ms', 'exported ms', 'exported GMAC/s'], [
                 [b['layer'], b['output'], _rounded(b['macs'] / 1e6, 1), a['ms'], b['ms'], b['gmacs_per_second'] or '']
                 for a, b in zip(*(layers['layers'][v] for v in ('converted', 'exported')), strict=True)]),
             f'## Loader beside MXNet\n\nThe same `train.rec` read and decoded, equal pixels: {loading["same_pixels"]}; '
             f'`{loading["command"]}`',
             markdown_table(['reader', 'images a second of processor time'], [*loading['images_per_cpu_second'].items()]),
             f'## Training on a CPU beside InsightFace\n\nFaces a second; {training["machine"]["cores"]} cores; '
             f'{training["conditions"]}: `{training["command"]}`',
             markdown_table(['network', 'trainer', 'faces a second'], [
                 [network, side, f'{rate:.0f}']
                 for network, sides in training['medians'].items() for side, rate in sides.items()]),
             f'## Packs in unmodified InsightFace\n\n`{results["packs"]["command"]}`',
             markdown_table(['version', 'faces', 'least cosine to facezoo', 'passed'], [
                 [version, r['faces'], f'{r["min_cosine_faceanalysis"]:.7f}', r['passed']]
                 for version, r in results['packs']['insightface'].items()]),
             f'## Start-up\n\nMedians of {startup["rounds"]} new processes; `{startup["command"]}`',
             markdown_table(['start', 'seconds', 'of the processor', 'target'], [
                 [name, seconds, startup['processor_seconds'][name], startup['targets'].get(name, '')]
                 for name, seconds in startup['seconds'].items()]),
             f'## Size of an installation without PyTorch\n\nMB on disk; the target was {sizes["target_mb"]}; '
             f'`{sizes["command"]}`',
             *(markdown_table([machine, *variants], [
                 [name, *(variant['packages_mb'].get(name, '') for variant in variants.values())]
                 for name in variants['runtime']['packages_mb'] if variants['runtime']['packages_mb'][name] >= 1]
                 + [['all', *(variant['total_mb'] for variant in variants.values())]])
               for machine, variants in sizes['machines'].items()),
             *_detector(results['detector_int8']), *_gallery(results['gallery']), _soak(results['soak'])]
    return '\n\n'.join(parts)


def _crop_faults(found: dict) -> list[str]:
    """FDFaceNet's weights on crops of inexact landmarks, and on single images at thresholds of mirrored ones."""
    apart, mirror = found['detectors'], found['mirror']
    return [f'## Faults of the crop\n\n`{found["command"]}`: accuracy (TAR at FAR 1e-3; cosine with the face as it is) in '
            f'percent on {found["set"]}, with a normal error of so many pixels (of 112) added to every coordinate of the '
            f'landmarks. Our detector and its teacher are {apart["rms_pixels"]:.2f} pixels apart (root mean square, '
            f'{apart["both"]} faces).',
            markdown_table(['weights', *(f'{error} pixels' for error in next(iter(found['misaligned'].values())))], [
                [name, *(f'{100 * r["accuracy"]:.2f} ({100 * r["tar@1e-3"]:.1f}; {r["cosine"]:.3f})' for r in rows.values())]
                for name, rows in found['misaligned'].items()]),
            f'At the thresholds of the cards, which are for a face and its mirror image together, on {found["holdout"]} of '
            'persons who were not trained on:',
            markdown_table(['weights', 'mirror image', *(f'FAR, TAR at {far}' for far in mirror[next(iter(mirror))]['with'])], [
                [name, way, *(f'{r["far"]:.2e}, {100 * r["tar"]:.1f} %' for r in rows.values())]
                for name, ways in mirror.items() for way, rows in ways.items()])]


def _impostors(found: dict) -> list[str]:
    """FAR by group of the strangers, at each weights' threshold for 1e-3."""
    models = found['models']
    return [f"## Who the strangers are\n\n`{found['command']}`: of a thousand pairs within a group, how many are accepted at "
            f"the threshold for FAR 1e-3; {found['set']}. {found['left_out']} more faces, of persons already there, were left "
            'out.',
            markdown_table(['group', 'faces', *models], [
                [name, group['faces'], *(f"{1e3 * model['groups'][name]['far@1e-3']:.2f}" for model in models.values())]
                for name, group in next(iter(models.values()))['groups'].items()])]


def _detector(found: dict) -> list[str]:
    """Faces and times of each file, at both sizes."""
    columns = ('recall', 'precision', 'false_alarms', 'landmark_error', 'mean_iou')
    headings = ['runtime', 'first layers', 'longest side', 'share in 8 bits', *columns, 'ms', 'ratio']
    return [f'## Detectors in 8 bits\n\n`{found["command"]}`, then `{found["speed_command"]}`; '
            f'`{found["model"]}`, with so many of its first layers in floating point, compared with the ONNX file in floating '
            'point on held-out pictures; one thread, in turns. Ratio: time over that of the same runtime in floating point.',
            markdown_table([heading.replace('_', ' ') for heading in headings], [
                [runtime, plan, size, found['int8_macs'][runtime].get(plan, ''), *(report[column] for column in columns),
                 *(found['speed'][runtime][plan][size][key] for key in ('ms', 'ratio'))]
                for runtime in found['speed'] for plan, reports in found['agreement'][runtime].items()
                for size, report in reports.items()])]


_CPU = ('cpu_p50_ms', 'cpu_p99_ms', 'batch_cpu_ms_a_probe')


def _gallery(found: dict) -> list[str]:
    """The searches in a gallery of a million."""
    machine = f'{found["machine"]["processor"]}, {found["machine"]["date"]}'
    rows = [[name, f'{r["persons"]:,}', f'{setting} {row[setting]}' if setting != 'setting' else '',
             r.get('build_cpu_seconds', ''), r['resident_mb'], *(row[key] for key in _CPU), row['probes'],
             f'{100 * row["recall"]:.1f}', f'{100 * row["recall_sure"]:.1f}']
            for name, r in found['indexes'].items() for row in r['settings'] for setting in [next(iter(row))]]
    return ['## Search in large galleries\n\n'
            f'`{found["command"]}`; invented persons (the file says how they are made); one thread, milliseconds and seconds '
            f'of processor time (the machine did other work too); {machine}. Recall: how often the first answer is that of the '
            f"exact search, of {found['recall_of']}; then of those that reach the card's threshold at FAR 1e-5.",
            markdown_table(['index', 'persons', 'setting', 'build s', 'MB', 'p50 ms', 'p99 ms', 'batch, ms a probe', 'probes',
                            'recall %', 'recall %, FAR 1e-5'], rows)]


def _soak(found: dict) -> str:
    """Whether recognition of a video grows."""
    runs = '; '.join(f'{name}: {r["frames"]} frames, {r["rss_mb"]["last"]:g} MB at the end, '
                     f'{r["growth"]["rss_mb"]["an_hour"]:+.2f} MB an hour (± {r["growth"]["rss_mb"]["two_errors"]:.2f}); more '
                     f'than {found["allowed_mb_an_hour"]:g} MB an hour: {found["grows"][name]}'
                     for name, r in found['runs'].items())
    return (f'## Memory in the long run\n\n`{found["command"]}`; an hour is {found["frames_an_hour"]} frames. {runs}. '
            f'{found["extent"]}')


def studies_page() -> str:
    """The reports of the studies that have results."""
    parts = ['# Studies', "What the papers' choices are worth on real faces, after equal, short training: `facezoo experiments "
             'run`. The faces are CelebA crops (`recipes/proxy_faces.py` says how few); the test is LFW. An ordering of the '
             'paper "holds" here, or is "reversed", where the difference exceeds two of its errors (more, by Student\'s t, '
             'where few seeds say how much seeds scatter); where it is smaller, the two are "not told apart".']
    for name in list_studies():
        path = ROOT / 'results' / 'studies' / f'{name}.json'
        if path.exists():
            parts.append(re.sub(r'(?m)^#', '##', report(load_study(name), json.loads(path.read_text()))))
    return '\n\n'.join(parts)


def _rounded(value: float | None, digits: int) -> str:
    return '' if value is None else f'{value:.{digits}f}'


def on_files(files, config):
    """MkDocs: add the models' pages, their index, what was measured, and the README as the first page."""
    from mkdocs.structure.files import File
    pages = {f'models/{name}.md': model_page(card(name)) for name in list_models()}
    pages['models/index.md'] = f'# Models\n\n{models_table()}'
    pages['index.md'] = re.sub(r'\]\(docs/', '](', (ROOT / 'README.md').read_text())
    pages['measured.md'] = measured_page()
    pages['studies.md'] = studies_page()
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


if __name__ == '__main__':
    readme = ROOT / 'README.md'
    write_atomic(readme, fill(readme.read_text()))
