"The README promises nothing that is not so: its program prints what it shows, its map is the course, its commands exist"
import re
import subprocess
import sys

from project import PAGES, ROOT, cells, module_of, settings

README = (ROOT/'README.md').read_text(encoding='utf-8')
PROGRAM, OUTPUT = re.search(r'(?ms)^```python\n(.*?)^```.*?^```text\n(.*?)^```', README).groups()

def output_of(python, cwd):
    "What the README's program prints, or how it fails"
    done = subprocess.run([python, '-I', '-c', PROGRAM], cwd=cwd, capture_output=True, text=True)
    return done.stdout + done.stderr

def test_the_program_prints_what_the_readme_shows(tmp_path):
    assert output_of(sys.executable, tmp_path) == OUTPUT

def test_the_program_is_short():
    assert len([line for line in PROGRAM.splitlines() if line and not re.match('import|from', line)]) <= 10

def rows(): return re.findall(r'(?m)^\| \[([^]]*)\]\(nbs/([^)]*)\) *\| *(\S*) *\|', README)

def test_the_map_lists_every_page_in_order():
    assert [file for _, file, _ in rows()] == [p.name for p in PAGES]

def test_the_map_gives_the_title_and_the_module_of_each_page():
    for title, file, module in rows():
        page = ROOT/'nbs'/file
        assert title == cells(page)[0]['source'].splitlines()[0].removeprefix('# '), file
        assert module.strip('`') == (module_of(page) or '–'), file

def test_the_targets_of_make_exist():
    targets = set(re.findall(r'(?m)^([a-z]+):', (ROOT/'Makefile').read_text(encoding='utf-8')))
    for file in 'README.md', 'CONTRIBUTING.md', '.ci/run':
        used = set(re.findall(r'\bmake ([a-z]+)\b(?=[`\s])', (ROOT/file).read_text(encoding='utf-8')))
        assert used <= targets, f'{file} uses {used - targets}'

def test_ci_runs_the_readmes_test_command():
    assert '\nmake test\n' in README and (ROOT/'.ci/run').read_text(encoding='utf-8').endswith('\nmake test\n')

def test_the_python_floor_is_stated():
    assert f'Python {settings()["min_python"]}' in README
