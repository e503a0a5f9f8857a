"A decimal or a percentage that the prose states is computed, or set, by the code of the same page"
import ast
import re

import pytest
from project import PAGES, ROOT, cells

NUMBER = re.compile(r'''(?<![\w.])                                            # not inside a word or a version
                        ([-−]?\d+(?:\.\d*)?)                                  # 3, 0.97, −1.5
                        (?:e([-+]?\d+)|\s*\\(?:times|cdot)\s*10\^\{?([-−]?\d+)\}?)?   # times a power of ten
                        (?![\w.]*\d)                                          # nor the start of a version
                        (?:(?:\s|\\,|~|&nbsp;)*(\\?%))?                       # per cent''', re.VERBOSE)
# numbers that are names: addresses, papers, versions, places in a book
NAMES = re.compile(r'''\]\([^)]*\) | https?://\S+ | \b(?:doi|arxiv)\S*\s?\S+
                       | \b(?:version|Python|NumPy|PyTorch|section|chapter|figure|table|equation|eq\.|page)\s\d[\d.]*''', re.VERBOSE | re.IGNORECASE)

def numbers(text):
    "Each number as written, its value, how many decimals are stated, and whether it is per cent"
    for m in NUMBER.finditer(text):
        digits, power = m[1].replace('−', '-'), int((m[2] or m[3] or '0').replace('−', '-'))
        yield m[0].strip(), float(digits) * 10.**power, len(digits.partition('.')[2]) - power, bool(m[4])

def alt_texts(source):
    "The constant alternative texts of figures: prose, though they stand in code"
    calls = (n for n in ast.walk(ast.parse(re.sub(r'(?m)^\s*[%!].*$', '', source))) if isinstance(n, ast.Call))
    return [k.value for call in calls for k in call.keywords if k.arg == 'alt' and isinstance(k.value, ast.Constant)]

def without(source, nodes):
    "Source with nodes cut out"
    for text in (ast.get_source_segment(source, n) for n in nodes): source = source.replace(text or '', '', 1)
    return source

def prose_and_code(page):
    "What a page says, and what it sets and computes"
    prose, code = [], []
    for cell in cells(page):
        if cell['cell_type'] == 'markdown': prose.append(cell['source'])
        if cell['cell_type'] != 'code': continue
        alts = alt_texts(cell['source'])
        prose += [a.value for a in alts]
        code.append(without(cell['source'], alts))
        for output in cell['outputs']:
            texts = {mime: ''.join(v) for mime, v in output.get('data', {}).items() if mime.startswith('text/')}
            if '<img' in texts.get('text/html', ''): continue    # a figure: its text is the alternative text again
            code += [''.join(output.get('text', '')), output.get('evalue', ''), *(re.sub('<[^>]*>', ' ', t) for t in texts.values())]
    return '\n'.join(prose), '\n'.join(code)

def unsupported(prose, code):
    "The decimals and percentages of the prose that no number of the code rounds to"
    have = {v for _, v, _, _ in numbers(code)}
    exact = {v for _, v, decimals, percent in numbers(code) if decimals > 0 or percent}
    for written, value, decimals, percent in numbers(NAMES.sub(' ', prose)):
        if decimals <= 0 and not percent: continue    # a whole number is a count: of layers, rows, years
        candidates = {100 * v for v in have} | exact if percent else have
        if value >= 0: candidates = map(abs, candidates)    # "falls by 0.3" may be a difference of -0.3
        if not any(abs(v - value) <= 0.5 * 10.**-decimals * (1 + 1e-9) for v in candidates): yield written

@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_prose_numbers(page):
    missing = list(unsupported(*prose_and_code(page)))
    assert not missing, f'{page.relative_to(ROOT)} states {missing}, which no cell of it sets or shows'

@pytest.mark.parametrize('prose, code, missing', [
    ('a loss of 0.41', '0.4132', []),
    ('a loss of 0.42', '0.4132', ['0.42']),
    ('it ends at 0.41.', '[0.9  0.4132]', []),
    ('97 % are right', '0.9722', []),
    ('97.2% are right', '0.9722', []),
    ('$97\\,\\%$ are right', 'right: 97.22', []),
    ('98 % are right', '0.9722', ['98 %']),
    ('2 % are wrong', 'range(2)', ['2 %']),
    ('a slope of −0.5', '-0.5', []),
    ('a slope of -0.5', '0.5', ['-0.5']),
    ('it falls by 0.5', '-0.5', []),
    (r'$3.1 \times 10^{-5}$ is small', '3.14e-05', []),
    ('3.2e-5 is small', '3.14e-05', ['3.2e-5']),
    ('3 layers, 1986, NumPy 2.0, section 5.3, [x](0.5.html), arXiv 1412.6980, v1.2.3', '', []),
])
def test_the_rule_itself(prose, code, missing): assert list(unsupported(prose, code)) == missing
