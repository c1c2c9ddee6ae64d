"""Distribution ``facezoo``: packages plugins, recipes, zoo and the command ``facezoo``."""

from pathlib import Path

from setuptools import find_packages, setup

ROOMS = ('plugins', 'recipes', 'zoo')
HERE = Path(__file__).parent
VERSION = next(line.split("'")[1] for line in (HERE / 'zoo' / '__init__.py').read_text('utf-8').splitlines()
               if line.startswith('__version__'))

EXTRAS = {
    'torch': ['torch>=2.6', 'safetensors>=0.4.3'],
    'train': ['torch>=2.6', 'safetensors>=0.4.3', 'lightning-fabric>=2.4', 'scipy>=1.11', 'tensorboard', 'setuptools'],
    # runs exported files; on a board this is all, and no PyTorch (onnx: without it PReLU is slow in onnxruntime)
    'runtime': ['onnxruntime>=1.18', 'onnx>=1.16', 'ncnn>=1.0.20240820'],
    'onnx': ['onnx>=1.16', 'onnxsim>=0.4.36', 'onnxruntime>=1.18'],
    'ncnn': ['ncnn>=1.0.20240820', 'pnnx>=20240819'],
    'insightface': ['insightface>=0.7.3', 'onnxruntime>=1.18'],
    'arcface-torch': ['torch>=2.6', 'torchvision', 'tensorboard', 'easydict', 'scikit-learn', 'scikit-image', 'scipy',
                      'pandas', 'matplotlib', 'prettytable', 'ptflops', 'onnx>=1.16', 'onnxruntime>=1.18'],
    'tensorrt': ['tensorrt', 'pycuda'],  # on the device; JetPack brings its own
    # mxnet is none of them: facezoo reads and writes its files without it, and its last release needs a NumPy below 1.24
    'bench': ['scipy>=1.11'],
    'faiss': ['faiss-cpu>=1.8'],  # galleries of more than a hundred thousand
    'plot': ['matplotlib>=3.8'],
    'completion': ['shtab>=1.13'],
    'qdrant': ['qdrant-client>=1.16'],  # galleries in a database that several machines share
}
USED = ('train', 'onnx', 'ncnn', 'insightface', 'bench', 'faiss', 'plot', 'completion', 'qdrant')
EXTRAS['all'] = sorted({requirement for extra in USED for requirement in EXTRAS[extra]})
EXTRAS['dev'] = sorted({*EXTRAS['all'], 'hypothesis', 'mkdocs>=1.6', 'pytest>=8', 'pytest-xdist', 'ruff', 'torchinfo'})

setup(
    name='facezoo',
    version=VERSION,
    description='Lightweight face recognition for small devices: a model-zoo plugin for InsightFace',
    long_description=(HERE / 'README.md').read_text('utf-8'),
    long_description_content_type='text/markdown',
    license='MIT',
    python_requires='>=3.10',
    packages=[p for room in ROOMS for p in [room, *(f'{room}.{sub}' for sub in find_packages(room))]],
    package_data={'recipes': ['studies/*.yaml'],
                  'zoo': ['cards/*.yaml', 'weights/*.safetensors', 'pipeline/*.json', 'papers/*.yaml', 'data/*.csv',
                          'data/latency/*.json', 'export/*/*.yaml', 'export/templates/*']},
    install_requires=['numpy>=1.24', 'opencv-python-headless>=4.11', 'pillow>=10', 'pyyaml>=6', 'tqdm'],
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['facezoo=zoo.cli:main']},
)
