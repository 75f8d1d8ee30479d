"""MovieLens as GroupLens publishes it: ratings with times, films with genres, and people where they are told.

100K: `u.data`, `u.item`, `u.user`, Latin-1. 1M: `ratings.dat`, `movies.dat`, `users.dat`, cells between `::`, Latin-1.
10M: the same names in UTF-8, without people. 20M and latest: `ratings.csv`, `movies.csv`. The bytes tell the encoding.
"""

from pathlib import Path

from jaxrec.data.readers.names import prose
from jaxrec.data.readers.raw import Item, Problems, RawSet
from jaxrec.data.readers.table import read_table
from jaxrec.data.readers.text_files import beside, lines, records, stem

RATINGS = ("ratings.dat", "u.data", "ratings.csv")
GENRES = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|Film-Noir|Horror|Musical|"
    "Mystery|Romance|Sci-Fi|Thriller|War|Western"
).split("|")  # the order of the flags in u.item
PEOPLE_1M = ("gender", "age", "occupation", "zip_code")
PEOPLE_100K = ("age", "gender", "occupation", "zip_code")


def read_movielens(path: Path, problems: Problems, named: dict[str, str]) -> RawSet:
    """Events of a ratings file, with the films and the people that lie beside it."""
    found = read_table(path, problems, named, documented=True)
    found.layout = "movielens"
    found.items, found.people = films(path.parent, problems), viewers(path.parent, problems)
    return found


def films(folder: Path, problems: Problems) -> dict[str, Item]:
    """Titles and genres by film, of `movies.dat`, `u.item` or `movies.csv`; empty where there is none."""
    path = beside(folder, "movies.dat", "u.item", "movies.csv")
    if path is None:
        return {}
    found: dict[str, Item] = {}
    if stem(path) == "movies.csv":
        for at, row in records(path, ",", problems):
            if len(row) != 3:
                problems.note(path, at, "not 3 columns", ",".join(row))
            elif at > 1:
                found[row[0]] = Item(title=prose(row[1]), category=_genres(row[2].split("|")))
        return found
    for at, line in lines(path, problems):
        if not (line := line.strip("\r\n")):
            continue
        if stem(path) == "movies.dat":
            row = line.split("::")
            if len(row) != 3:
                problems.note(path, at, "not 3 columns", line)
                continue
            found[row[0]] = Item(title=prose(row[1]), category=_genres(row[2].split("|")))
        else:
            row = line.split("|")
            if len(row) != 5 + len(GENRES):
                problems.note(path, at, f"not {5 + len(GENRES)} columns", line)
                continue
            named = [genre for genre, flag in zip(GENRES, row[5:], strict=True) if flag == "1"]
            found[row[0]] = Item(title=prose(row[1]), category=_genres(named))
    return found


def viewers(folder: Path, problems: Problems) -> dict[str, dict[str, str]]:
    """Age, gender, occupation and zip code by person, of `users.dat` or `u.user`; empty where there is none."""
    path = beside(folder, "users.dat", "u.user")
    if path is None:
        return {}
    delimiter, names = ("::", PEOPLE_1M) if stem(path) == "users.dat" else ("|", PEOPLE_100K)
    found = {}
    for at, line in lines(path, problems):
        row = line.strip("\r\n").split(delimiter)
        if len(row) == 1 + len(names):
            found[row[0]] = dict(zip(names, row[1:], strict=True))
        elif row != [""]:
            problems.note(path, at, f"not {1 + len(names)} columns", line)
    return found


def _genres(names: list[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name and name != "(no genres listed)")
