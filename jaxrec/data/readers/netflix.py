"""The Netflix Prize's files (Bennett and Lanning 2007): `12:` begins film 12, then `customer,rating,date` a line.

`combined_data_*.txt`, `mv_*.txt` and `training_set.txt`; titles and years in `movie_titles.csv` (or .txt) beside.
"""

import re
from pathlib import Path

from jaxrec.data.readers.names import identity, prose
from jaxrec.data.readers.raw import Events, Item, Problems, RawSet
from jaxrec.data.readers.text_files import beside, lines
from jaxrec.data.readers.times import number, seconds

FILM = re.compile(r"(\d+):\s*")


def read_netflix(path: Path, problems: Problems, named: dict[str, str]) -> RawSet:
    """Ratings with their dates under the film that they follow."""
    events, film = Events(), ""
    for at, line in lines(path, problems):
        if heading := FILM.fullmatch(line.strip()):
            film = heading[1]
            continue
        if not line.strip():
            continue
        row = line.strip().split(",")
        try:
            user, rating, time = identity(row[0]), number(row[1]), seconds(row[2])
        except (ValueError, IndexError):
            problems.note(path, at, "not `customer,rating,date`", line)
            continue
        if not user or not film:
            problems.note(path, at, "no user or no item", line)
            continue
        events.add(user, film, rating, time)
    return RawSet("netflix", events.interactions(), items=_films(path.parent, problems))


def _films(folder: Path, problems: Problems) -> dict[str, Item]:
    path = beside(folder, "movie_titles.csv", "movie_titles.txt")
    found = {}
    for at, line in lines(path, problems) if path else ():
        row = line.strip().split(",", 2)  # a title may hold commas
        if len(row) == 3:
            found[row[0]] = Item(title=prose(row[2]), year="" if row[1] == "NULL" else row[1])
        elif row != [""]:
            problems.note(path or folder, at, "not `film,year,title`", line)
    return found
