"""The recommenders' tables, one experiment file a row: ranking, ratings, cross-domain, and GenRec's flow.

    python -m eval.recommend configs/recommend/beauty_popularity.py      what came next, among all items or among 100
    python -m eval.recommend FILE --help                           the flags of that file's kind of table
    python -m eval.recommend FILE --seeds 0 --out runs/trial       a flag overrides one field of the file

Each prints its table and writes results/recommend/NAME.json, from which the README's tables are made. What kind of
table it is follows from the class of the file's `config`. Public data sets are read from the folder JAXREC_DATA.
"""

import importlib
import sys

from jaxrec import config

MODULES = (
    "jaxrec.eval.recommend_ranking",
    "jaxrec.eval.recommend_rating",
    "jaxrec.eval.recommend_cross",
    "jaxrec.eval.recommend_flow",
)


def main(argv: list[str]) -> None:
    """Finds the module whose config class the file uses, and runs it with the same words."""
    if not argv or argv[0].startswith("-"):
        if {"--help", "-h"} & set(argv):
            print(__doc__)
            return
        raise config.ConfigError(
            "name an experiment file, configs/recommend/beauty_popularity.py say"
        )
    chosen = type(config.read_file(object, argv[0]))
    if chosen.__module__ not in MODULES:
        raise config.ConfigError(
            f"{argv[0]} defines a {chosen.__name__}; a recommenders' table is configured by a class of "
            f"{', '.join(MODULES)}"
        )
    module = importlib.import_module(chosen.__module__)
    config.run(module.main, chosen, module.__doc__, argv)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except config.ConfigError as error:
        print(f"config: {error}", file=sys.stderr)
        raise SystemExit(error.status) from None
