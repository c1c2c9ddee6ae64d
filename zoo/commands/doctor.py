"""What is installed here, which of InsightFace's arcface_torch scripts run, and which shims they need and why.

  facezoo doctor
  facezoo doctor --json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform

from plugins.extras import installed_versions
from zoo.tables import format_table

PACKAGES = ('facezoo', 'torch', 'torchvision', 'numpy', 'scipy', 'opencv-python-headless', 'opencv-python', 'onnx',
            'onnxruntime', 'onnxruntime-gpu', 'ncnn', 'pnnx', 'tensorrt', 'insightface', 'mxnet', 'scikit-learn',
            'scikit-image', 'pandas', 'easydict')


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--checkout', metavar='DIR',
                        help='an insightface checkout; otherwise that in ARCFACE_TORCH, or the remembered one')
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')


def run(args: argparse.Namespace) -> None:
    packages = dict.fromkeys(PACKAGES) | installed_versions(PACKAGES)
    report = {'python': platform.python_version(), 'machine': platform.platform(), 'packages': packages, **_devices(),
              'arcface_torch': _arcface_torch(args.checkout)}
    if args.json:
        print(json.dumps(report, indent=2))
        return
    print(f'Python {report["python"]} on {report["machine"]}')
    print(f'CUDA for PyTorch: {report["cuda"]}; onnxruntime: {", ".join(report["providers"]) or report["onnxruntime"]}\n')
    print(format_table(['package', 'version'], [[name, version or 'not installed'] for name, version in packages.items()]))
    _show(report['arcface_torch'])


def _devices() -> dict:
    """What PyTorch and onnxruntime see here, or why they cannot be asked."""
    report: dict = {'cuda': _problem('torch'), 'onnxruntime': _problem('onnxruntime'), 'providers': []}
    if not report['cuda']:
        import torch
        cuda = torch.cuda.is_available()
        report['cuda'] = torch.cuda.get_device_name() if cuda else f'no device (torch {torch.__version__})'
    if not report['onnxruntime']:
        import onnxruntime
        report['providers'] = onnxruntime.get_available_providers()
    return report


def _problem(package: str) -> str | None:
    """Why a package cannot be used; None when it can."""
    if importlib.util.find_spec(package) is None:
        return f'{package} is not installed'
    try:
        importlib.import_module(package)
    except Exception as error:  # a broken installation may raise anything, and is what this command is asked about
        return f'{package} cannot be loaded ({type(error).__name__}: {error})'
    return None


def _arcface_torch(given: str | None) -> dict:
    """Checkout, the libraries that each script lacks, and every shim with the reason why it is needed."""
    if problem := _problem('torch'):
        return {'problem': problem + ": pip install 'facezoo[arcface-torch]'" * problem.endswith('is not installed')}
    from plugins.arcface_torch import checkout
    from plugins.arcface_torch.compat import SHIMS, survey
    report: dict = {'shims': {}, 'scripts': {}}
    try:
        folder = checkout.locate(given)
    except checkout.CheckoutError as error:
        report['problem'] = str(error)
    else:
        supplied = {shim.provides for shim in SHIMS}
        report['checkout'] = str(folder)
        report['scripts'] = {script: [name for name in checkout.missing_modules(folder, script) if name not in supplied]
                             for script in checkout.scripts(folder)}
    for name, reason in survey().items():
        problem = next(shim.problem for shim in SHIMS if shim.name == name)
        report['shims'][name] = {'needed': bool(reason), 'reason': reason, 'problem': problem}
    return report


def _show(report: dict) -> None:
    print(f'\narcface_torch: {report.get("checkout") or report["problem"]}\n')
    if report.get('scripts'):
        print(format_table(['script', 'can run'], [[script, f'no: {", ".join(missing)} not installed' if missing else 'yes']
                                                   for script, missing in report['scripts'].items()]), end='\n\n')
    if report.get('shims'):
        print(format_table(['shim', 'needed because', 'for'], [[name, shim['reason'].partition('\n')[0] or 'not needed',
                                                                shim['problem']] for name, shim in report['shims'].items()]))
