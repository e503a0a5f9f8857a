"Store widgets by their still pictures, and number those that have none in the order in which they appear: running a page again changes no byte"
import json
import re
import sys
from pathlib import Path

ID = re.compile(r'[0-9a-f]{32}')
VIEW, STATE = 'application/vnd.jupyter.widget-view+json', 'application/vnd.jupyter.widget-state+json'


def stills(nb):
    "Leave out the views of widgets that have a still picture: without a kernel, JupyterLab shows it only where no view is stored"
    for cell in nb['cells']:
        for output in cell.get('outputs', []):
            data = output.get('data', {})
            if 'text/html' in data: data.pop(VIEW, None)

def normalise(nb):
    "The notebook with widget ids 1, 2, 3 … and without the widgets that nothing shows"
    stills(nb)
    store = nb['metadata'].get('widgets', {}).get(STATE, {})
    state, order = store.get('state', {}), []

    def visit(i):
        if i in order: return
        order.append(i)
        for j in ID.findall(json.dumps(state.get(i), sort_keys=True)):
            if j in state: visit(j)

    for cell in nb['cells']:
        for output in cell.get('outputs', []):
            view = output.get('data', {}).get(VIEW)
            if view: visit(view['model_id'])
    if state: store['state'] = {i: state[i] for i in order if i in state}
    if state and not store['state']: del nb['metadata']['widgets']
    new = {i: f'{n:032x}' for n, i in enumerate(order, 1)}
    return json.loads(ID.sub(lambda m: new.get(m[0], m[0]), json.dumps(nb)))


def text(nb): return json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + '\n'   # as nbdev_clean writes it


if __name__ == '__main__':
    for f in map(Path, sys.argv[1:]):
        old = f.read_text(encoding='utf-8')
        new = text(normalise(json.loads(old)))
        if new != old: f.write_text(new, encoding='utf-8')
