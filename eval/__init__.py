"""The evaluations: `python -m eval.NAME [EXPERIMENT] [--flags]`, or `jaxrec eval NAME` from anywhere."""

from jaxrec import start

start.as_module(__name__)
