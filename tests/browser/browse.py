"Drive pages in a real Chromium: servers on this machine only, own settings, no token, nothing from the network"
import contextlib
import functools
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = os.environ.get('CHROMIUM') or shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
         '--disable-dev-shm-usage', '--force-color-profile=srgb', '--hide-scrollbars']
LAB_SETTINGS = {
    'apputils-extension/notification': {'checkForUpdates': False, 'doNotDisturbMode': True, 'fetchNews': 'false'},
    'notebook-extension/tracker': {'windowingMode': 'none'},
    'extensionmanager-extension/plugin': {'enabled': False},
}
SCREENSHOTS = ROOT/'build'/'browser'    # of the pages on which a test failed


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def wait_for(url, process, log, seconds=90):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, f'the server ended:\n{log.read_text()[-3000:]}'
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            if answer.status == 200: return
        time.sleep(.2)
    raise TimeoutError(f'{url} does not answer:\n{log.read_text()[-3000:]}')

class Server:
    def __init__(self, url, root): self.url, self.root = url, root

    def end_kernels(self):
        with urllib.request.urlopen(f'{self.url}/api/kernels') as answer: kernels = json.load(answer)
        for k in kernels:
            with contextlib.suppress(OSError): urllib.request.urlopen(urllib.request.Request(f'{self.url}/api/kernels/{k["id"]}', method='DELETE'))

@contextlib.contextmanager
def server(
    kind,         # 'lab' or 'voila'
    notebooks=(), # paths to copy beside the course's pages
):                # a `Server`
    "JupyterLab or Voila over a copy of the notebooks, which is thrown away at the end"
    home = Path(tempfile.mkdtemp(prefix='bp-browser-'))
    root, settings, log, port = home/'root', home/'settings', home/'server.log', free_port()
    shutil.copytree(ROOT/'nbs', root/'nbs', ignore=shutil.ignore_patterns('.*'))
    shutil.copytree(ROOT/'backprop_nb'/'static', root/'backprop_nb'/'static')   # where the pages look for it
    for n in notebooks: shutil.copy(n, root/'nbs')
    for name, values in LAB_SETTINGS.items():
        folder, plugin = name.split('/')
        (settings/'@jupyterlab'/folder).mkdir(parents=True, exist_ok=True)
        (settings/'@jupyterlab'/folder/f'{plugin}.jupyterlab-settings').write_text(json.dumps(values))
    env = os.environ | dict(JUPYTER_CONFIG_DIR=str(home/'config'), JUPYTER_RUNTIME_DIR=str(home/'runtime'), IPYTHONDIR=str(home/'ipython'),
                            JUPYTER_PREFER_ENV_PATH='1', JUPYTER_PATH=str(ROOT/'tools'/'jupyter'), OPENBLAS_NUM_THREADS='1', TQDM_DISABLE='1')
    env.pop('MPLBACKEND', None)
    if kind == 'lab':
        command = ['jupyterlab', '--no-browser', '--allow-root', '--ServerApp.ip=127.0.0.1', f'--ServerApp.port={port}', '--ServerApp.port_retries=0', '--IdentityProvider.token=',
                   '--ServerApp.password=', f'--ServerApp.root_dir={root}', f'--LabApp.user_settings_dir={settings}', f'--LabApp.workspaces_dir={home/"workspaces"}',
                   '--LabApp.expose_app_in_browser=True', '--ServerApp.disable_check_xsrf=True', '--LabApp.news_url=None']
    else: command = ['voila', '--no-browser', '--template=studio', '--Voila.ip=127.0.0.1', f'--port={port}', f'--Voila.root_dir={root}', str(root)]
    with open(log, 'w') as out:
        process = subprocess.Popen([sys.executable, '-m', *command], cwd=root, env=env, stdout=out, stderr=subprocess.STDOUT)
        try:
            wait_for(f'http://127.0.0.1:{port}/' + ('api/status' if kind == 'lab' else ''), process, log)
            yield Server(f'http://127.0.0.1:{port}', root)
        finally:
            process.terminate()
            try: process.wait(20)
            except subprocess.TimeoutExpired: process.kill()
            shutil.rmtree(home, ignore_errors=True)

@contextlib.contextmanager
def static_site(folder):
    "A folder, served on this machine; yields its address"
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    handler = functools.partial(Quiet, directory=str(folder))
    site = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    try: yield f'http://127.0.0.1:{site.server_port}'
    finally:
        site.shutdown()
        site.server_close()

# ------------------------------------------------------------------ pages

open_pages = []

def troubles(page):
    "What a page should not have done: errors on its console, and requests that left the machine"
    return [*map('console: {}'.format, page.errors), *map('request: {}'.format, page.offsite)]

@contextlib.contextmanager
def new_page(
    browser,          # Playwright's browser
    url=None,         # where to go
    size=(1280, 900), # width and height in pixels
    dark=False,       # does the reader's computer ask for dark colours?
    calm=False,       # does it ask for less motion?
    allow=(),         # patterns of console errors and addresses that are none of our business
):                    # a page in a profile of its own
    context = browser.new_context(viewport=dict(width=size[0], height=size[1]), color_scheme='dark' if dark else 'light', reduced_motion='reduce' if calm else 'no-preference')
    page = context.new_page()
    page.errors, page.offsite = [], []
    def strange(text): return not any(re.search(a, text) for a in allow)
    def asked(request):
        if request.url.startswith('http') and not re.match(r'https?://(127\.0\.0\.1|localhost)[:/]', request.url) and strange(request.url): page.offsite.append(request.url)
    page.on('console', lambda m: page.errors.append(m.text) if m.type == 'error' and strange(f'{m.text} {m.location}') else None)
    page.on('pageerror', lambda e: page.errors.append(str(e)) if strange(str(e)) else None)
    page.on('request', asked)
    open_pages.append(page)
    try:
        if url: page.goto(url)
        yield page
    finally:
        open_pages.remove(page)
        context.close()

# ------------------------------------------------------------------ JupyterLab

def lab_open(page, lab, notebook):
    "Open a page of the course in JupyterLab, alone, and wait for its kernel"
    page.goto(f'{lab.url}/doc/tree/nbs/{notebook}?reset')
    page.wait_for_selector('.jp-Notebook .jp-Cell', timeout=90_000)
    page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", timeout=90_000)

def lab_run(page, timeout=180_000):
    "Run all cells; errors that no tag expects are raised"
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function("""() => window.jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type === 'code' && c.model.sharedModel.source.trim())
        .every(c => c.model.executionCount !== null && c.model.executionState !== 'running')""", timeout=timeout)
    wrong = page.evaluate("""() => window.jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type === 'code' && !(c.model.getMetadata('tags') ?? []).includes('raises-exception'))
        .flatMap(c => c.model.sharedModel.getOutputs().filter(o => o.output_type === 'error').map(o => `${o.ename}: ${o.evalue}`))""")
    assert not wrong, wrong

def lab_execute(page, code):
    "What the kernel of the open notebook prints when it runs `code`, as text"
    return page.evaluate("""async code => {
        const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel, future = kernel.requestExecute({ code, store_history: false })
        let text = ''
        future.onIOPub = m => { if (m.header.msg_type === 'stream') text += m.content.text; if (m.header.msg_type === 'error') text += `${m.content.ename}: ${m.content.evalue}` }
        await future.done
        return text }""", code).strip()

def lab_theme(page, name):
    "Put on 'JupyterLab Light' or 'JupyterLab Dark'"
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", name)
    page.wait_for_function("dark => document.body.dataset.jpThemeLight === String(!dark)", arg='Dark' in name)

# ------------------------------------------------------------------ widgets

def widget(page, label):
    "The widget with this label"
    found = page.locator(f'.bp[aria-label="{label}"]')
    found.wait_for(timeout=60_000)
    found.scroll_into_view_if_needed()
    return found

def turned(page, box, name, key, times=1):
    "Turn a knob by keys, wait for a new picture, and return the knob's new value as it is shown"
    control = box.locator(f'[data-knob="{name}"]')
    before = int(box.get_attribute('data-pictures') or 0)
    control.focus()
    for _ in range(times): page.keyboard.press(key)
    handle = box.element_handle()
    page.wait_for_function('([box, n]) => Number(box.dataset.pictures) > n', arg=[handle, before], timeout=30_000)
    page.wait_for_timeout(150)
    output = box.locator(f'output[for="{control.get_attribute("id")}"]')
    return output.get_attribute('data-value') if output.count() else control.input_value()

def violations(page, css='.bp'):
    "What axe finds wrong inside the elements that match"
    from axe_playwright_python.sync_playwright import Axe
    found = Axe().run(page, context={'include': [[css]]}).response['violations']
    return [f"{v['id']} ({v['impact']}): {v['help']}: {[n['html'][:160] for n in v['nodes'][:3]]}" for v in found]
