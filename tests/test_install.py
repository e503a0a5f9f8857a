"Whoever installs the package gets all of it, and pays for NumPy and nothing more"
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from project import ROOT, files, settings
from test_readme import OUTPUT, output_of

LIB = settings()['lib_path']


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "The source distribution and the wheel, built from it in a folder of its own"
    source, out = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('built')
    for f in files():
        (source/f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/f, source/f)
    build(source, out, 'sdist')
    (sdist,) = out.glob('*.tar.gz')
    with tarfile.open(sdist) as tar: tar.extractall(out, filter='data')
    build(sdist.with_name(sdist.name.removesuffix('.tar.gz')), out, 'wheel')
    (wheel,) = out.glob('*.whl')
    return sdist, wheel

def build(source, out, kind):
    code = f'from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})'
    done = subprocess.run([sys.executable, '-c', code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

def needed(requirements):
    "Names of the distributions that pip installs for requirements, as far as this environment has them"
    names, todo = set(), [Requirement(r) for r in requirements]
    while todo:
        r = todo.pop()
        name = canonicalize_name(r.name)
        if name in names or r.marker and not r.marker.evaluate({'extra': ''}): continue
        try: todo += map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError: continue    # pip will say so
        names.add(name)
    return names

@pytest.fixture(scope='module')
def python(built, tmp_path_factory):
    """The Python of a new environment that holds the wheel and what it requires.
    What it requires is linked from this environment, so that no network is needed; pip checks that nothing is missing"""
    home = tmp_path_factory.mktemp('clean')
    ours = importlib.util.find_spec('pip') is not None    # an environment made by uv has no pip to lend
    venv.create(home, with_pip=not ours)
    python = home/('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
    pip = [sys.executable, '-m', 'pip', '--python', python] if ours else [python, '-m', 'pip']
    ask = [python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))']
    site = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    for name in needed(settings()['requirements'].split()):
        distribution = importlib.metadata.distribution(name)
        for top in {f.parts[0] for f in distribution.files} - {'..', '__pycache__'}:
            if not (site/top).exists(): (site/top).symlink_to(Path(distribution.locate_file(top)).resolve())
    for command in ['install', '--quiet', '--no-index', built[1]], ['check']:
        done = subprocess.run([*pip, *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return python

def run(python, code, cwd):
    done = subprocess.run([python, '-I', '-c', code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()

def test_the_wheel_holds_the_package_and_its_data(built):
    with zipfile.ZipFile(built[1]) as wheel: names = set(wheel.namelist())
    ours = {f.as_posix() for f in files() if f.parts[0] == LIB}
    assert {n for n in names if n.startswith(f'{LIB}/')} == ours
    assert any(n.endswith('/licenses/LICENSE') for n in names)

def test_the_source_distribution_holds_the_course(built):
    with tarfile.open(built[0]) as tar: names = {n.partition('/')[2] for n in tar.getnames()}
    missing = {f.as_posix() for f in files() if len(f.parts) > 1} - names
    assert not missing, f'MANIFEST.in leaves out {missing}'

NEEDS_EXTRA = {'estimators': 'sklearn'}    # module -> the extra without which it cannot be imported

def test_the_package_needs_only_what_it_requires(python, tmp_path):
    modules = sorted(f.stem for f in files() if f.parts[0] == LIB and f.suffix == '.py' and f.stem not in NEEDS_EXTRA)
    run(python, ''.join(f'import {LIB}.{m}\n' for m in modules), tmp_path)

@pytest.mark.parametrize('module, extra', NEEDS_EXTRA.items())
def test_what_needs_an_extra_says_how_to_get_it(python, tmp_path, module, extra):
    said = run(python, f'try: import {LIB}.{module}\nexcept ImportError as e: print(e)', tmp_path)
    assert f'{LIB}[{extra}]' in ' '.join(said), said

def test_the_readmes_program_runs_from_the_wheel_alone(python, tmp_path):
    assert output_of(python, tmp_path) == OUTPUT

BEYOND = {'viz', 'live', 'microscope', 'studio', 'files', *NEEDS_EXTRA}    # the modules that exist to draw, to be clicked, to write files or to serve another library
OTHERS = needed(settings()['requirements'].split()) - {'numpy'}
HEAVY = {top for top, names in importlib.metadata.packages_distributions().items() if OTHERS & set(map(canonicalize_name, names))}
ENGINE = sorted(f.stem for f in files() if f.parts[0] == LIB and f.suffix == '.py' and f.stem not in BEYOND | {'_modidx'})

@pytest.mark.parametrize('module', ENGINE)
def test_importing_the_engine_costs_numpy_and_nothing_more(python, tmp_path, module):
    name = LIB if module == '__init__' else f'{LIB}.{module}'
    loaded = run(python, f'import {name}, sys; print(*{{m.partition(".")[0] for m in sys.modules}})', tmp_path)
    assert not HEAVY & set(loaded), f'importing {name} also imports {HEAVY & set(loaded)}'
