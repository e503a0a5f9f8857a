"Every page is built alike: a title and a promise first, a way to the next page last, and nothing that the course does without"
import re
from urllib.parse import unquote

import pytest
from project import PAGES, ROOT, cells, directives, module_of

every_page = pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
CHAPTERS = [p for p in PAGES if p.name[0].isdigit()]

@every_page
def test_a_page_starts_with_its_title_and_a_promise(page):
    first = cells(page)[0]
    assert first['cell_type'] == 'markdown'
    assert re.match(r'# \S.*\n+> \S', first['source']), 'the first cell is "# Title" and "> what the page promises"'

@every_page
def test_a_page_has_one_title(page):
    text = '\n'.join(re.sub(r'(?ms)^```.*?^```', '', c['source']) for c in cells(page, 'markdown'))
    assert len(re.findall(r'(?m)^# ', text)) == 1

@every_page
def test_no_cell_is_empty_and_default_exp_stands_alone(page):
    for c in cells(page):
        assert c['source'].strip(), f'cell {c["id"]} is empty'
        if 'default_exp' in directives(c): assert len(c['source'].strip().splitlines()) == 1

@every_page
def test_what_a_reader_runs_to_see_something_is_short(page):
    long = [c['id'] for c in cells(page, 'code') if 'exports' not in directives(c) and len(c['source'].splitlines()) > 25]
    assert not long, f'cells {long}: more than 25 lines'

@pytest.mark.parametrize('page, following', list(zip(CHAPTERS, CHAPTERS[1:])), ids=lambda p: p.stem)
def test_a_page_leads_to_the_next(page, following):
    assert f']({following.name})' in cells(page, 'markdown')[-1]['source']

def links(text): return re.findall(r'\]\(([^)\s]+)\)', re.sub(r'(?ms)^```.*?^```|`[^`\n]*`|\$[^$]*\$', '', text))

@pytest.mark.parametrize('file', [*PAGES, *sorted(ROOT.glob('*.md'))], ids=lambda p: p.stem)
def test_links_lead_somewhere(file):
    texts = [c['source'] for c in cells(file, 'markdown')] if file.suffix == '.ipynb' else [file.read_text(encoding='utf-8')]
    local = [link for text in texts for link in links(text) if not re.match(r'\w+:|#', link)]
    lost = [link for link in local if not (file.parent/unquote(link.partition('#')[0])).exists()]
    assert not lost

# what the course does without, and why
WITHOUT = {
    r'(?m)^#\s*\|\s*exporti?\b': 'hides code from the reader: #| exports exports and shows',
    r'(?m)^#\s*\|\s*eval:': 'nbval and JupyterLab run the cell all the same',
    r'(?m);\s*$': 'nbval sees the output that a semicolon hides in JupyterLab',
    r'@patch\b|\bshow_doc\b': 'needs nbdev at run time',
    r'\binteract(ive)?\(|\bOutput\(': 'what they print belongs to no cell: set the value of a widget',
    r'\bplt\.|\bpyplot\b': 'keeps figures in a global: backprop_nb.viz draws',
    r'\bnp\.random\.(?!default_rng\b|Generator\b|SeedSequence\b|PCG64\b)\w+\(': 'global randomness: pass a Generator as rng',
    r'(?i)\bnbval[-_](skip|ignore)': 'every cell runs and every output is compared',
}

@every_page
@pytest.mark.parametrize('pattern', WITHOUT, ids=lambda p: re.sub(r'\W+', ' ', p).strip())
def test_nothing_the_course_does_without(page, pattern):
    found = [c['id'] for c in cells(page, 'code') if re.search(pattern, c['source'] + ' '.join(c['metadata'].get('tags', [])))]
    assert not found, f'cells {found}: {WITHOUT[pattern]}'

@every_page
def test_stored_errors_are_expected_ones(page):
    for c in cells(page, 'code'):
        kinds = {o['output_type'] for o in c['outputs']} | {o.get('name') for o in c['outputs']}
        assert 'stderr' not in kinds, f'cell {c["id"]} stores a warning'
        assert ('error' in kinds) == ('raises-exception' in c['metadata'].get('tags', [])), c['id']

@every_page
def test_answers_are_folded_and_checked(page):
    answers = [c for c in cells(page, 'code') if 'hide-input' in c['metadata'].get('tags', [])]
    for c in answers:
        assert c['metadata'].get('jupyter') == {'source_hidden': True, 'outputs_hidden': True}, f'cell {c["id"]} is not folded in JupyterLab'
        assert re.search(r'\bassert|raises|check_', c['source']), f'the answer in cell {c["id"]} is not checked'

def test_titles_and_modules_are_unique():
    titles = [cells(p)[0]['source'].splitlines()[0] for p in PAGES]
    assert len(set(titles)) == len(titles)
    assert len({module_of(p) for p in CHAPTERS if module_of(p)}) == sum(bool(module_of(p)) for p in CHAPTERS)
