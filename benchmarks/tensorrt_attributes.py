"""Does every TensorRT attribute that the board's code uses exist in every version that it claims to run on? Run by hand.

  python benchmarks/tensorrt_attributes.py --module                     the installed binding (`import tensorrt` needs no GPU)
  python benchmarks/tensorrt_attributes.py --source TensorRT --tag 8.2.1    the binding's C++ source in a checkout of
                                                                            NVIDIA/TensorRT, for versions without a wheel

Adds the version to results/tensorrt_attributes.json. Wheels of 8.5 and 8.6 exist for Python 3.6 to 3.10:
`pip install tensorrt==8.5.3.1 'nvidia-cudnn-cu11<9'`.

Needs: TensorRT (a wheel of the version, or NVIDIA's checkout)
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
from pathlib import Path

from command_line import command_line

ROOT = Path(__file__).parents[1]
RESULT = ROOT / 'results' / 'tensorrt_attributes.json'

MODULES = ('board', 'builder', 'cache', 'engine')
# what their code calls its variables, and what a method hands out
CLASSES = {'builder': 'Builder', 'network': 'INetworkDefinition', 'parser': 'OnnxParser', 'config': 'IBuilderConfig',
           'profile': 'IOptimizationProfile', 'layer': 'ILayer', 'tensor': 'ITensor', '_engine': 'ICudaEngine',
           '_context': 'IExecutionContext', '_runtime': 'Runtime'}
RETURNS = {'get_output': 'ITensor', 'get_input': 'ITensor', 'get_error': 'ParserError', 'get_timing_cache': 'ITimingCache'}
# reached through another class: layer.__class__ = trt.IConstantLayer
CASTS = {('ILayer', 'weights'): 'IConstantLayer'}
# may be missing, because the code asks first (hasattr) or a bundle for that version never asks for it
GUARDED = {
    'IBuilderConfig.max_workspace_size': 'replaced by set_memory_pool_limit in 8.4',
    'IBuilderConfig.set_memory_pool_limit': 'new in 8.4', 'tensorrt.MemoryPoolType': 'new in 8.4',
    'tensorrt.MemoryPoolType.WORKSPACE': 'new in 8.4',
    **dict.fromkeys(['ICudaEngine.num_bindings', 'ICudaEngine.get_binding_name', 'ICudaEngine.get_binding_index',
                     'ICudaEngine.binding_is_input', 'IExecutionContext.set_binding_shape',
                     'IExecutionContext.get_binding_shape', 'IExecutionContext.execute_async_v2'], 'by index: gone in 10'),
    **dict.fromkeys(['ICudaEngine.num_io_tensors', 'ICudaEngine.get_tensor_name', 'ICudaEngine.get_tensor_mode',
                     'IExecutionContext.get_tensor_shape', 'IExecutionContext.set_input_shape',
                     'IExecutionContext.set_tensor_address', 'IExecutionContext.execute_async_v3', 'tensorrt.TensorIOMode',
                     'tensorrt.TensorIOMode.INPUT'],
                    'by name: new in 8.5'),
    **dict.fromkeys(['ITensor.set_dynamic_range', 'ILayer.precision', 'ILayer.set_output_type',
                     'tensorrt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS'],
                    'weak typing: gone in 11, whose bundles have neither a cache nor layer_precisions'),
}


def used_attributes() -> set[str]:
    """``Class.attribute`` and ``module.Name.Name`` for all that zoo/jetson asks of tensorrt."""
    used = set()
    for module in MODULES:
        for node in ast.walk(ast.parse((ROOT / 'zoo' / 'jetson' / f'{module}.py').read_text())):
            if isinstance(node, ast.Attribute) and (owner := _owner(node.value)):
                used.add(f'{CASTS.get((owner, node.attr), owner)}.{node.attr}')
    return {name for name in used if not name.endswith('__') or name.endswith('.__version__')}


def _owner(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return 'tensorrt' if node.id in ('trt', 'tensorrt') else CLASSES.get(node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return RETURNS.get(node.func.attr)
    if isinstance(node, ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id == 'self':
            return 'tensorrt' if node.attr in ('trt', '_trt') else CLASSES.get(node.attr)
        outer = _owner(node.value)
        return f'{outer}.{node.attr}' if outer and outer.startswith('tensorrt') else None
    return None


def installed() -> tuple[str, dict[str, list[str]]]:
    """Version and public names by class of the tensorrt module here."""
    import tensorrt
    surface = {'tensorrt': _public(tensorrt)}
    for name in surface['tensorrt']:
        value = getattr(tensorrt, name)
        if isinstance(value, type):
            surface[name] = _public(value)
            for inner in surface[name]:
                if isinstance(getattr(value, inner), type):
                    surface[f'{name}.{inner}'] = _public(getattr(value, inner))
    return tensorrt.__version__, surface


def _public(thing) -> list[str]:
    return sorted(name for name in dir(thing) if not name.startswith('_') or name == '__version__')


def from_source(checkout: str, tag: str) -> dict[str, list[str]]:
    """Names by class in the pybind11 source of a version."""
    names = subprocess.run(['git', '-C', checkout, 'ls-tree', '-r', '--name-only', tag, 'python/src', 'python/packaging'],
                           capture_output=True, text=True, check=True).stdout.split()
    surface: dict[str, set[str]] = {'tensorrt': {'__version__'}}
    for name in names:
        if name.endswith('.cpp'):
            _read_bindings(subprocess.run(['git', '-C', checkout, 'show', f'{tag}:{name}'], capture_output=True, text=True,
                                          check=True).stdout, surface)
    for derived, base in (('Logger', 'ILogger'),):
        surface[derived] |= surface[base]
    return {name: sorted(values) for name, values in surface.items()}


def _read_bindings(text: str, surface: dict[str, set[str]]) -> None:
    current, variables = None, {}
    opening = re.compile(r'py::(?:class_|enum_)<.*?>\s*(\w+)?\s*[({]\s*(\w+)\s*,\s*"(\w+)"', re.S)
    member = re.compile(r'\.(?:def|def_property|def_property_readonly|def_readwrite|value|def_static)\(\s*"(\w+)"')
    events = sorted([*opening.finditer(text), *member.finditer(text), *re.finditer(r'\n\s+(\w+)\.(?=def|value)', text)],
                    key=lambda match: match.start())
    for match in events:
        if match.re is opening:
            variable, scope, name = match.groups()
            current = f'{variables[scope]}.{name}' if scope in variables else name
            surface.setdefault(current, set())
            surface[current.rpartition('.')[0] or 'tensorrt'].add(name)
            if variable:
                variables[variable] = current
        elif match.re is member:
            if current:
                surface[current].add(match.group(1))
        elif match.group(1) in variables:
            current = variables[match.group(1)]


def check(surface: dict[str, list[str]]) -> dict:
    """Which used attributes a version has and lacks."""
    used = used_attributes()
    present = {name for name in used if name.rpartition('.')[2] in surface.get(_key(name), ())}
    absent = sorted(used - present)
    return {'present': sorted(present), 'absent_but_guarded': [name for name in absent if name in GUARDED],
            'missing': [name for name in absent if name not in GUARDED]}


def _key(name: str) -> str:
    owner = name.rpartition('.')[0]
    return owner.removeprefix('tensorrt.')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--module', action='store_true', help='look at the installed tensorrt')
    parser.add_argument('--source', help='checkout of NVIDIA/TensorRT')
    parser.add_argument('--tag', help='version tag in it')
    args = parser.parse_args()
    if args.module:
        version, surface = installed()
        origin = 'installed binding'
    else:
        version, surface, origin = args.tag.lstrip('v'), from_source(args.source, args.tag), "binding's source"
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    results['command'] = command_line(__doc__)
    results[version] = {'command': results['command'], 'from': origin, **check(surface)}
    RESULT.parent.mkdir(exist_ok=True)
    ordered = dict(sorted(results.items(), key=lambda item: [int(p) for p in re.findall(r'\d+', item[0])]))
    RESULT.write_text(json.dumps(ordered, indent=1) + '\n')
    found = results[version]
    print(f'TensorRT {version}: {len(found["present"])} present, {len(found["absent_but_guarded"])} absent but guarded, '
          f'missing: {", ".join(found["missing"]) or "none"}')


if __name__ == '__main__':
    main()
