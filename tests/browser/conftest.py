"A browser, JupyterLab and Voila for the tests in this folder; run them with `make browser`"
from contextlib import ExitStack

import pytest
from browse import CHROMIUM, FLAGS, SCREENSHOTS, lab_open, lab_run, new_page, open_pages, server, troubles
from playwright.sync_api import sync_playwright


@pytest.fixture(scope='session')
def browser():
    "Chromium, the computer's or Playwright's own; without one these tests fail, so that nobody mistakes a skipped test for a passed one"
    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield chromium
        chromium.close()

@pytest.fixture(scope='session')
def lab():
    "JupyterLab over a copy of the course"
    with server('lab') as s: yield s

@pytest.fixture(scope='session')
def voila():
    "Voila over a copy of the course"
    with server('voila') as s: yield s

@pytest.fixture(scope='module')
def visit(browser):
    "`visit(url, size=, dark=, calm=, allow=)` opens a page, which lives as long as the module's tests; see `browse.new_page`"
    with ExitStack() as stack: yield lambda *args, **options: stack.enter_context(new_page(browser, *args, **options))

@pytest.fixture(scope='module')
def lab_page(visit, lab):
    "`lab_page('05_update.ipynb')` opens a page of the course in JupyterLab and runs it"
    def open_(notebook, run=True, **options):
        page = visit(**options)
        lab_open(page, lab, notebook)
        if run: lab_run(page)
        return page
    yield open_
    lab.end_kernels()

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    "A failure keeps a picture of every open page"
    report = yield
    if report.failed:
        for i, page in enumerate(open_pages):
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            file = SCREENSHOTS/f'{item.name.replace("/", " ")}-{i}.png'
            try: page.screenshot(path=file)
            except Exception as e: file = f'no screenshot: {e}'
            report.sections.append(('browser', f'{page.url}\n{file}\n' + '\n'.join(troubles(page))))
    return report

@pytest.fixture(autouse=True)
def no_trouble():
    "No test leaves an error on a console, or a request that went off this machine"
    yield
    found = [t for page in open_pages for t in troubles(page)]
    for page in open_pages: page.errors.clear(), page.offsite.clear()
    assert not found, '\n'.join(found)
