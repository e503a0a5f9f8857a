"Every fact about the package is in settings.ini: change it there, not here."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read('settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
lib = cfg['lib_path']

setup(
    version=cfg['version'], description=cfg['description'], license='Apache-2.0',
    author=cfg['author'], author_email=cfg['author_email'] or None, keywords=cfg['keywords'].split(),
    long_description=Path('README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=find_packages(include=[lib, f'{lib}.*']),
    package_data={lib: ['*', 'static/*']},   # data, scripts and licences that lie beside the modules, and what runs in a browser
    install_requires=cfg['requirements'].split(),
    extras_require={k.removesuffix('_requirements'): v.split() for k, v in cfg.items() if k.endswith('_requirements')},
    entry_points={'nbdev': [f'{lib} = {lib}._modidx:d']},
)
