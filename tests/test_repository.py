"What is written twice agrees, what is generated is up to date, and nothing names the machine it was made on"
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from norm_widgets import normalise, text
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from project import PAGES, ROOT, files, settings


def run(tool, *args, cwd):
    "Run a command of this environment"
    folder = os.path.dirname(sys.executable)
    done = subprocess.run([shutil.which(tool, path=folder) or tool, *args], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f'{tool} failed:\n{done.stdout}\n{done.stderr}'

@pytest.fixture
def copy(tmp_path):
    "The settings and the notebooks in a folder of their own, without the package"
    for name in 'settings.ini', 'pyproject.toml': shutil.copy(ROOT/name, tmp_path)
    shutil.copytree(ROOT/'nbs', tmp_path/'nbs', ignore=shutil.ignore_patterns('.*'))
    return tmp_path

def modules(folder): return {f.name: f.read_text(encoding='utf-8') for f in (folder/'backprop_nb').glob('*.py')}

def test_the_package_is_what_the_notebooks_export(copy):
    run('nbdev_export', cwd=copy)
    ours, exported = modules(ROOT), modules(copy)
    stale = sorted(f for f in ours.keys() | exported.keys() if ours.get(f) != exported.get(f))
    assert not stale, f'{stale} differ from what the notebooks export: run `make export`; a module without a notebook is to be deleted'

def test_the_notebooks_are_clean(copy):
    run('nbdev_clean', cwd=copy)
    dirty = [p.name for p in PAGES if (copy/'nbs'/p.name).read_bytes() != p.read_bytes()]
    assert not dirty, f'{dirty}: run `make export`, which cleans notebooks'

@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_widget_ids_do_not_depend_on_the_run(page):
    ours = page.read_text(encoding='utf-8')
    assert text(normalise(json.loads(ours))) == ours, 'run `make export`, which numbers widgets'

def test_code_is_as_ruff_wants_it():
    run('ruff', 'check', '--no-cache', '--output-format=concise', cwd=ROOT)

def test_pyproject_repeats_settings_ini_and_adds_no_facts():
    ours, toml = settings(), tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf-8'))
    project, nbdev = toml['project'], toml['tool']['nbdev']
    assert project.keys() == {'name', 'requires-python', 'dynamic'}, 'facts belong into settings.ini'
    assert project['name'] == ours['lib_name'] == ours['repo'] == ours['lib_path']
    assert project['requires-python'] == f'>={ours["min_python"]}'
    assert nbdev['allowed_cell_metadata_keys'] == ours['allowed_cell_metadata_keys'].split()

def test_the_changelog_starts_with_the_version():
    headings = re.findall(r'(?m)^## (\S+)', (ROOT/'CHANGELOG.md').read_text(encoding='utf-8'))
    assert headings[0] == settings()['version']

def pins():
    "Every line of constraints.txt as a requirement"
    return [Requirement(line) for line in (ROOT/'constraints.txt').read_text(encoding='utf-8').splitlines()]

@pytest.mark.parametrize('python', ['3.11', '3.12', '3.13'])
@pytest.mark.parametrize('extra', ['requirements', 'dev_requirements', 'peers_requirements'])
def test_constraints_pin_every_requirement_within_its_bounds(extra, python):
    place = {'python_version': python, 'python_full_version': f'{python}.9'}
    pinned = {canonicalize_name(r.name): r.specifier for r in pins() if not r.marker or r.marker.evaluate(place)}
    for r in map(Requirement, settings()[extra].split()):
        (pin,) = pinned[canonicalize_name(r.name)]
        assert pin.operator == '==' and pin.version in r.specifier, f'{r} but {r.name}{pin}: run `make constraints`'

def test_constraints_name_no_place_and_no_cuda():
    for r in pins():
        assert not r.url
        assert not re.match('nvidia|cuda|triton', r.name), f'{r.name} belongs to one build of PyTorch: `make constraints` leaves it out'
        assert '+' not in str(r.specifier), f'{r} exists in one place only'

def test_python_floor_is_the_one_that_make_asks_for():
    asked = re.search(r'version_info < \((\d+), (\d+)\)', (ROOT/'Makefile').read_text(encoding='utf-8')).groups()
    assert '.'.join(asked) == settings()['min_python']
    assert '{}.{}.99'.format(*sys.version_info) in SpecifierSet(f'>={settings()["min_python"]}')

# a user's folder, a temporary folder, a hidden package source: each of them says where the file was made
PLACES = re.compile(r'''(?<![\w.~}>)-])/(?:home|Users|tmp|root|work|workspace|mnt|var/folders)/\w+ | \b[A-Z]:\\{1,2}Users
                        | \b(?:pypi|npmjs|anaconda|conda)\.(?:org|com)\b | pythonhosted\. | download\.pytorch''', re.VERBOSE)

def test_no_file_names_a_machine_or_a_registry():
    found = []
    for f in files():
        try: lines = (ROOT/f).read_text(encoding='utf-8').splitlines()
        except UnicodeDecodeError: continue   # data and pictures
        found += [f'{f}:{n}: {m[0]}' for n, line in enumerate(lines, 1) for m in PLACES.finditer(line)]
    assert not found, '\n'.join(found)
