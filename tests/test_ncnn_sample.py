"""The C++ sample of docs/examples/ncnn: it compiles, and computes what the Python embedder computes."""

import os
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from plugins.preprocess import l2_normalise
from tests.conftest import ROOT
from zoo.export.artefact import export
from zoo.jetson.align import TEMPLATE, similarity_transform, template
from zoo.pipeline.pictures import read_picture
from zoo.pipeline.sample import sample_crops, sample_image, sample_landmarks

SAMPLE = ROOT / 'docs' / 'examples' / 'ncnn'


def test_sample_is_correct_cpp(tmp_path):
    """Against declarations of NCNN's functions where NCNN itself is not here; the tests below compile it with the real ones."""
    compiler = shutil.which('c++') or pytest.skip('needs a C++ compiler')
    check = [compiler, '-std=c++11', '-Wall', '-Wextra', '-Werror', '-fsyntax-only', '-I', str(ROOT / 'tests' / 'ncnn_headers')]
    run = subprocess.run([*check, str(SAMPLE / 'recognise.cpp')], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    broken = tmp_path / 'broken.cpp'
    broken.write_text((SAMPLE / 'recognise.cpp').read_text().replace('create_extractor', 'extractor_of'))
    assert subprocess.run([*check, str(broken)], capture_output=True).returncode


def test_crops_in_cpp_are_those_of_python(tmp_path):
    """Also far from the corner of the picture, where the sums of squares of coordinates leave nothing of the face."""
    compiler = shutil.which('c++') or pytest.skip('needs a C++ compiler')
    (tmp_path / 'main.cpp').write_text("""#include "align.h"
#include <cstdio>
#include <cstdlib>
int main(int, char** argv)
{
    float landmarks[10], matrix[6];
    for (int i = 0; i < 10; i++) landmarks[i] = float(std::atof(argv[2 + i]));
    if (!crop_to_picture(landmarks, std::atoi(argv[1]), matrix)) return 1;
    for (float value : matrix) std::printf("%.9g ", value);
}
""")
    subprocess.run([compiler, '-std=c++11', '-Wall', '-Wextra', '-Werror', '-I', str(SAMPLE), str(tmp_path / 'main.cpp'),
                    '-o', str(tmp_path / 'main')], check=True)

    def run(size: int, landmarks: np.ndarray) -> subprocess.CompletedProcess:
        return subprocess.run([tmp_path / 'main', *map(str, (size, *landmarks.ravel()))], capture_output=True, text=True)

    turned = TEMPLATE @ np.float32([[.8, .3], [-.3, .8]]) + np.float32([[0, 3], [1, 0], [-2, 0], [0, 0], [0, -1]])
    for size in (112, 96):
        for offset in (0, 1000, 4000):
            landmarks = turned + np.float32([offset, offset / 2])
            expected = cv2.invertAffineTransform(similarity_transform(landmarks, template(size)))
            np.testing.assert_allclose(np.array(run(size, landmarks).stdout.split(), float).reshape(2, 3), expected, atol=1e-3)
    assert run(112, np.ones((5, 2))).returncode == 1


@pytest.fixture(scope='module')
def guide() -> str:
    return (ROOT / 'docs' / 'deployment.md').read_text()


def program(guide: str) -> str:
    """The snippet of the guide as a program: path of RGB pixels, their width and height, ten numbers of landmarks."""
    snippet, = re.findall(r'```cpp\n(.*?)```', guide, re.DOTALL)
    return f"""#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>
#include "align.h"
#include "net.h"
static bool embed(const unsigned char* pixels, int width, int height, const float* landmarks)
{{
{snippet}
for (float value : embedding) std::printf("%.8g ", value);
return true;
}}
int main(int, char** argv)
{{
    const int width = std::atoi(argv[2]), height = std::atoi(argv[3]);
    std::vector<char> pixels(size_t(3) * width * height);
    std::ifstream(argv[1], std::ios::binary).read(pixels.data(), std::streamsize(pixels.size()));
    float landmarks[10];
    for (int i = 0; i < 10; i++) landmarks[i] = float(std::atof(argv[4 + i]));
    return embed(reinterpret_cast<unsigned char*>(pixels.data()), width, height, landmarks) ? 0 : 1;
}}
"""


def test_snippet_of_the_guide_is_correct_cpp(guide, tmp_path):
    compiler = shutil.which('c++') or pytest.skip('needs a C++ compiler')
    (tmp_path / 'guide.cpp').write_text(program(guide))
    run = subprocess.run([compiler, '-std=c++11', '-Wall', '-Wextra', '-Werror', '-fsyntax-only', '-I', str(SAMPLE), '-I',
                          str(ROOT / 'tests' / 'ncnn_headers'), str(tmp_path / 'guide.cpp')], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    numbers = re.findall(r'\(([0-9.]+),\s+([0-9.]+)\)', guide.partition('2. **Crop**')[2].partition('3. **Pixels**')[0])
    np.testing.assert_array_equal(np.float32(numbers), TEMPLATE)


def build(source: Path, folder: Path) -> Path:
    """Compile a project that needs NCNN's C++ library; the folder with its program."""
    if not (shutil.which('cmake') and shutil.which('c++')):
        pytest.skip('needs cmake and a C++ compiler')
    made = subprocess.run(['cmake', '-S', str(source), '-B', str(folder)], capture_output=True, text=True)
    if 'ncnnConfig.cmake' in made.stderr:
        pytest.skip("needs NCNN's C++ library (set ncnn_DIR to its lib/cmake/ncnn); only the syntax was checked")
    assert made.returncode == 0, made.stderr
    made = subprocess.run(['cmake', '--build', str(folder)], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


def execute(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """On one thread: OpenMP's wait for one another by spinning, which takes minutes on a busy machine."""
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=cwd,
                          env={**os.environ, 'OMP_THREAD_LIMIT': '1'})


def test_snippet_of_the_guide_embeds_as_python_does(guide, tmp_path):
    """From a picture and landmarks to embeddings of faces with their mirror images; as near as the guide says."""
    import zoo
    (tmp_path / 'guide.cpp').write_text(program(guide))
    (tmp_path / 'CMakeLists.txt').write_text((SAMPLE / 'CMakeLists.txt').read_text().replace('recognise.cpp', 'guide.cpp')
                                             + f'include_directories({SAMPLE})\n')
    made = build(tmp_path, tmp_path / 'build') / 'recognise'
    export(zoo.load('fdfacenet'), 'fdfacenet', 'ncnn', tmp_path)
    picture = read_picture(sample_image())
    (tmp_path / 'pixels').write_bytes(picture.tobytes())
    height, width = picture.shape[:2]
    found = [execute(made, 'pixels', width, height, *face.ravel(), cwd=tmp_path).stdout.split() for face in sample_landmarks()]
    crops, embedder = sample_crops(), zoo.open(tmp_path, threads=1)
    expected = l2_normalise(embedder(crops) + embedder(np.ascontiguousarray(crops[:, :, ::-1])))
    assert (expected @ expected.T)[np.triu_indices(len(crops), 1)].max() < 0.5, 'the net does not tell faces apart'
    assert ((np.array(found, float) * expected).sum(1) > 0.999).all()


@pytest.fixture(scope='module')
def recognise(tmp_path_factory):
    """The compiled sample, as a function of its arguments."""
    return partial(execute, build(SAMPLE, tmp_path_factory.mktemp('build')) / 'recognise')


@pytest.fixture(scope='module', params=['RGB', 'BGR'])
def model(request, small_net, tmp_path_factory):
    """An exported net, in both colour orders."""
    from dataclasses import replace
    folder = tmp_path_factory.mktemp(request.param)
    usual, small_net.preprocess = small_net.preprocess, replace(small_net.preprocess, colour=request.param)
    export(small_net, 'small', 'ncnn', folder)
    small_net.preprocess = usual
    return folder / 'small'


@pytest.fixture(scope='module')
def pictures(crops, tmp_path_factory):
    folder = tmp_path_factory.mktemp('pictures')
    for number, crop in enumerate(crops):
        (folder / f'{number}.ppm').write_bytes(b'P6\n112 112\n255\n' + crop.tobytes())
    return [str(folder / f'{number}.ppm') for number in range(len(crops))]


def test_embeddings_are_those_of_python(recognise, model, pictures, crops):
    import zoo
    expected = l2_normalise(zoo.open(model.with_suffix('.param'), threads=1)(crops))
    assert np.median(expected @ expected.T) < 0.9, 'the net does not tell faces apart'
    found = [recognise(model, picture).stdout.split() for picture in pictures]
    np.testing.assert_allclose(np.array(found, float), expected, atol=2e-6)


def test_cosines_of_pairs(recognise, model, pictures, crops):
    import zoo
    unit = l2_normalise(zoo.open(model.with_suffix('.param'), threads=1)(crops))
    run = recognise(model, *pictures)
    rows = [line.split() for line in run.stdout.splitlines()]
    first, second = np.triu_indices(len(crops), 1)
    assert [row[:2] for row in rows] == [[pictures[i], pictures[j]] for i, j in zip(first, second, strict=True)]
    np.testing.assert_allclose([float(row[2]) for row in rows], (unit @ unit.T)[first, second], atol=3e-6)
    assert 'p50' in run.stderr


@pytest.mark.parametrize('content, complaint', [
    (b'P6\n112 112\n255\n' + bytes(100), 'cut off'), (b'P6\n64 64\n255\n' + bytes(64 * 64 * 3), '112 pixels'),
    (b'P5\n112 112\n255\n' + bytes(112 * 112), 'not a binary PPM')])
def test_bad_pictures_are_refused(recognise, model, tmp_path, content, complaint):
    (tmp_path / 'bad.ppm').write_bytes(content)
    run = recognise(model, tmp_path / 'bad.ppm')
    assert run.returncode == 1 and complaint in run.stderr and 'bad.ppm' in run.stderr


def test_model_without_its_sidecar_is_refused(recognise, model, pictures, tmp_path):
    shutil.copy(model.with_suffix('.param'), tmp_path)
    run = recognise(tmp_path / 'small', pictures[0])
    assert run.returncode == 1 and 'small.json: missing' in run.stderr
