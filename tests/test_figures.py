"Who cannot see a figure is told what it shows"
from html.parser import HTMLParser

import pytest
from project import PAGES, ROOT, cells


class Pictures(HTMLParser):
    "Collects what is said in place of every picture in a piece of HTML"
    def __init__(self, html):
        super().__init__()
        self.said = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == 'img': self.said.append(attrs.get('alt') or '')
        if tag == 'svg': self.said.append(attrs.get('aria-label') or '')

def said(output):
    "The alternative texts of the pictures of one output; a picture without HTML has none"
    data = output.get('data', {})
    in_html = Pictures(''.join(data.get('text/html', ''))).said
    return in_html or ['' for mime in data if mime.startswith('image/')]

OUTPUTS = [pytest.param(o, id=f'{p.stem}-{c["id"]}') for p in PAGES for c in cells(p, 'code') for o in c['outputs'] if said(o)]

@pytest.mark.parametrize('output', OUTPUTS)
def test_every_figure_says_what_it_shows(output):
    for text in said(output):
        assert text, 'a figure without alternative text: use a function of backprop_nb.viz, with alt='
        assert len(text.split()) >= 5, f'{text!r} is too short to say what the figure shows'

@pytest.mark.parametrize('page', [*PAGES, *ROOT.glob('*.md')], ids=lambda p: p.stem)
def test_pictures_in_the_text_have_alternative_text_too(page):
    texts = [c['source'] for c in cells(page, 'markdown')] if page.suffix == '.ipynb' else [page.read_text(encoding='utf-8')]
    for text in texts:
        assert '![](' not in text
        assert all(Pictures(text).said)

def test_the_rule_itself():
    assert said({'data': {'image/png': 'iVBO'}}) == ['']
    assert said({'data': {'image/png': 'iVBO', 'text/html': '<img alt="a loss that falls">'}}) == ['a loss that falls']
    assert said({'data': {'text/html': '<p><img src="x"><img alt="a loss that falls" src="y"></p>'}}) == ['', 'a loss that falls']
    assert said({'data': {'text/plain': '1'}}) == []
