"A module imports only modules of earlier pages, so that the pages can be read, and built, in their order"
import re

import pytest
from project import PAGES, cells, directives, imported, module_of

MODULES = {module_of(p): p for p in PAGES if module_of(p)}
APPENDIX = {m for m, p in MODULES.items() if re.match('[A-Z]_', p.name)}

def ours(source):
    "Names of our modules that source imports"
    parts = [name.split('.') for name in imported(source)]
    return {p[1] for p in parts if p[0] == 'backprop_nb' and len(p) > 1}

def exported(page): return [c['source'] for c in cells(page, 'code') if directives(c).keys() & {'export', 'exports', 'exporti'}]

def test_the_order_is_in_the_file_names():
    odd = [p.name for p in PAGES if not re.fullmatch(r'(\d\d[a-z]?|[A-Z])_[a-z]\w*\.ipynb', p.name)]
    assert not odd, 'a page is called like 03_backward.ipynb, an appendix like B_viz.ipynb'

@pytest.mark.parametrize('page', [p for p in PAGES if p.name[0].isdigit()], ids=lambda p: p.stem)
def test_a_page_uses_only_what_was_read_before(page):
    if page.name.startswith('00_'): return   # the promise: it shows what all the later pages build
    for cell in cells(page, 'code'):
        for m in ours(cell['source']):
            assert m in MODULES, f'backprop_nb.{m} is not exported by any page'
            assert m in APPENDIX or MODULES[m].name < page.name, f'{page.name} imports {m}, which {MODULES[m].name} has yet to build'

@pytest.mark.parametrize('page', [p for p in PAGES if not p.name[0].isdigit()], ids=lambda p: p.stem)
def test_an_appendix_builds_on_appendices_only(page):
    for source in exported(page):
        assert ours(source) <= APPENDIX - {module_of(page)}, f'{page.name} exports an import of {ours(source) - APPENDIX}'

def test_every_module_says_its_page_and_no_two_pages_share_one():
    named = [m for p in PAGES for m in {module_of(p)} if m]
    assert len(named) == len(set(named))
    assert not [p.name for p in PAGES if exported(p) and not module_of(p)], 'a page that exports needs #| default_exp'

def test_imports_make_no_circle():
    uses = {m: set().union(*map(ours, exported(p))) for m, p in MODULES.items()}
    while free := {m for m in uses if not uses[m] & uses.keys()}:
        for m in free: del uses[m]
    assert not uses, f'modules that import each other: {uses}'
