"""The races and their report: `python -m bench`. A contender starts as every run does, the peers' too."""

from jaxrec import start

start.as_module(__name__)
