"""The stages: `python -m train.NAME [EXPERIMENT] [--flags]`, or `jaxrec train NAME` from anywhere."""

from jaxrec import start

start.as_module(__name__)
