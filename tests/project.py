"The project's files, pages and settings, for the tests that check them"
import ast
import json
import os
import re
from configparser import ConfigParser
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT/'nbs').glob('*.ipynb'))

def settings():
    "What settings.ini says"
    ini = ConfigParser(delimiters=['='], interpolation=None)
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    return ini['DEFAULT']

def files():
    "Paths, relative to the root, of all that .gitignore does not name; a copy without git will do"
    lines = (ROOT/'.gitignore').read_text(encoding='utf-8').splitlines()
    ignored = ['.git', *(line for line in lines if line and not line.startswith('#'))]
    def kept(names): return [n for n in names if not any(fnmatch(n, i) for i in ignored)]
    found = []
    for folder, subfolders, names in os.walk(ROOT):
        subfolders[:] = kept(subfolders)
        found += [(Path(folder)/n).relative_to(ROOT) for n in kept(names)]
    return sorted(found)

def cells(page, kind=None):
    "The cells of a page, or those of one kind ('code', 'markdown'), each with its source as one string"
    nb = json.loads(page.read_text(encoding='utf-8'))
    return [c | {'source': ''.join(c['source'])} for c in nb['cells'] if kind in (None, c['cell_type'])]

def directives(cell):
    "The nbdev directives of a cell: {'exports': '', 'default_exp': 'forward'}"
    return {name: rest.strip() for name, rest in re.findall(r'(?m)^#\s*\|\s*(\w+)(.*)$', cell['source'])}

def module_of(page):
    "The module that a page exports to, or None"
    return next((d['default_exp'] for d in map(directives, cells(page, 'code')) if 'default_exp' in d), None)

def imported(source):
    "Names of everything that Python source imports: {'numpy', 'backprop_nb.forward'}"
    source = re.sub(r'(?m)^(\s*)[%!].*$', r'\1pass', source)   # IPython's own lines
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import): found |= {a.name for a in node.names}
        if isinstance(node, ast.ImportFrom): found |= {node.module, *(f'{node.module}.{a.name}' for a in node.names)}
    return found
