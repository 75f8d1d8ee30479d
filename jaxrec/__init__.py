"""jaxrec: personalised language models and recommenders in JAX.

Importing the package costs nothing; import the room that you need (`jaxrec.nn`, `jaxrec.models`, ...).
"""

__version__ = "0.1.0"
