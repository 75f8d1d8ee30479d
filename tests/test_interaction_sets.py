"""Readers: every public layout told by looking, malformed rows shown where they stand, and the published counts."""

import functools
import gzip
import json

import numpy as np
import pytest

from jaxrec.data.folder import DataMissing
from jaxrec.data.histories import histories, leave_one_out
from jaxrec.data.interaction_sets import DataConfig, read
from jaxrec.data.readers.raw import DataError, MalformedRow
from jaxrec.data.splits import block_folds

EVENTS = [(f"{1 + t % 7}", f"{10 + t % 5}", 1 + t % 5, 900_000_000 + 1000 * t) for t in range(35)]


def put(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def joined(delimiter, order=(0, 1, 2, 3)):
    return "".join(delimiter.join(str(row[i]) for i in order) + "\n" for row in EVENTS)


def same_events(found):
    events = found.interactions
    assert [
        (events.users[u], events.items[i], r, t)
        for u, i, r, t in zip(
            events.user_T, events.item_T, events.rating_T, events.time_T, strict=True
        )
    ] == EVENTS


LAYOUTS = {
    "u.data": joined("\t"),
    "ratings.dat": joined("::"),
    "ratings.csv": "userId,movieId,rating,timestamp\n" + joined(","),
    "ratings_Toys.csv": joined(","),
    "x.csv.gz": "asin,overall,reviewerID,unixReviewTime\n" + joined(",", (1, 2, 0, 3)),
    "x.tsv": "uid\titem_id\tscore\ttime\tsession\n" + joined("\t").replace("\n", "\tx\n"),
    "x.inter": "rating:float\tuser_id:token\titem_id:token\ttimestamp:float\n"
    + joined("\t", (2, 0, 1, 3)),
    "Toys_5.json.gz": "".join(
        json.dumps(dict(zip(("reviewerID", "asin", "overall", "unixReviewTime"), row, strict=True)))
        + "\n"
        for row in EVENTS
    ),
    "Toys.jsonl": "".join(
        json.dumps({"user_id": u, "parent_asin": i, "rating": r, "timestamp": 1000 * t, "text": ""})
        + "\n"
        for u, i, r, t in EVENTS
    ),
    "events.txt": joined(" "),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_events_out_of_every_layout(tmp_path, name):
    path = put(tmp_path, name, LAYOUTS[name])
    same_events(read(DataConfig(path=path)))
    same_events(read(DataConfig(path=tmp_path)))  # a folder with that file


def test_amazon_2018_tables_put_the_item_first(tmp_path):
    rows = "".join(
        f"B00{i:0>7},A{u}XYZ,{r}.0,{t}\n" for u, i, r, t in EVENTS
    )  # item,user,rating,timestamp
    events = read(DataConfig(path=put(tmp_path, "Toys.csv", rows))).interactions
    assert events.users[0] == "A1XYZ" and events.items[0] == "B000000010"
    swapped = "".join(f"A{u}XYZ,B00{i:0>7},{r}.0,{t}\n" for u, i, r, t in EVENTS)
    events = read(DataConfig(path=put(tmp_path, "ratings_Toys.csv", swapped))).interactions
    assert events.users[0] == "A1XYZ" and events.items[0] == "B000000010"


def test_columns_by_name_and_by_place(tmp_path):
    named = put(tmp_path, "a.csv", "who,what,when\n" + joined(",", (0, 1, 3)))
    with pytest.raises(DataError, match=r"who, what, when; say it by --data\.user COLUMN"):
        read(DataConfig(path=named))
    found = read(DataConfig(path=named, user="who", item="what", time="when"))
    assert found.interactions.rating_T is None and len(found.interactions) == 35
    placed = put(tmp_path, "b.csv", "".join(f"x,{u},y,{i},{r}\n" for u, i, r, _ in EVENTS))
    with pytest.raises(DataError, match="5 columns without header"):
        read(DataConfig(path=placed))
    found = read(DataConfig(path=placed, user="1", item="3", rating="4"))
    assert found.interactions.users[0] == "1" and found.interactions.time_T is None


def test_sequences_and_pairs(tmp_path):
    lines = "3 5 6 7\n1 6 5\n2 7 7 5 6\n"
    found = read(DataConfig(path=put(tmp_path, "Toys.txt", lines)))
    assert found.layout == "sequences" and found.interactions.items == ("5", "6", "7")
    assert [row.tolist() for row in histories(found.interactions)] == [
        [1, 0],
        [2, 2, 0, 1],
        [0, 1, 2],
    ]
    pairs = "".join(f"{u} {i}\n" for u, i, _, _ in EVENTS)
    found = read(DataConfig(path=put(tmp_path, "pairs.txt", pairs)))
    assert found.layout == "pairs" and len(found.interactions) == 35
    with pytest.raises(DataError, match="no layout fits"):
        read(DataConfig(path=put(tmp_path, "prose.txt", "Call me Ishmael.\nSome years ago\n")))


MALFORMED = {
    "u.data": ("1\t10\t3\n", "not 4 columns"),
    "ratings.dat": ("1::10::good::900000000\n", "the rating is not a number"),
    "ratings.csv": ("1,10,3,yesterday\n", "the time is not in Unix seconds"),
    "x.inter": ("3\t1\t10\n", "not 4 columns"),
    "Toys_5.json.gz": ('{"reviewerID": "1", "asin"\n', "not a JSON object"),
    "Toys.jsonl": ('{"user_id": "1", "rating": 3}\n', "no user or no item"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_rows_are_counted_and_shown(tmp_path, name):
    bad, why = MALFORMED[name]
    lines = LAYOUTS[name].splitlines(keepends=True)
    path = put(tmp_path, name, "".join([*lines[:10], bad, *lines[10:], bad]))
    found = read(DataConfig(path=path))
    same_events(found)
    assert found.problems.count == 2 and found.problems.reasons == {why: 2}
    assert found.problems.first[0].startswith(f"{path}:11: {why}")
    assert why in found.summary()
    with pytest.raises(MalformedRow, match=":11: "):
        read(DataConfig(path=path, strict=True))


@pytest.mark.parametrize("rating", ["nan", "inf", ""])
def test_a_rating_that_is_no_number_is_malformed(tmp_path, rating):
    path = put(tmp_path, "u.data", joined("\t") + f"1\t2\t{rating}\t900000000\n")
    assert read(DataConfig(path=path)).problems.count == 1


def test_files_that_cannot_be_read_are_said_in_one_line(tmp_path, monkeypatch):
    whole = put(tmp_path, "a/x_5.json.gz", LAYOUTS["Toys_5.json.gz"])
    whole.write_bytes(whole.read_bytes()[:-20])
    put(tmp_path, "two/a.inter", LAYOUTS["x.inter"])
    put(tmp_path, "two/b.inter", LAYOUTS["x.inter"])
    (tmp_path / "none").mkdir()
    for config, match in {
        DataConfig(path=whole): "cut short",
        DataConfig(path=tmp_path / "two"): r"several .*a\.inter, b\.inter",
        DataConfig(path=tmp_path / "none"): "no file of events",
        DataConfig(path=tmp_path / "nowhere"): "no file or folder",
        DataConfig(path=tmp_path / "two/a.inter", layout="excel"): "no layout 'excel'",
        DataConfig(path=tmp_path / "two", file="a.inter", min_user=99): "no event is left of 35",
        DataConfig(path=tmp_path / "two", file="c.inter"): "no file",
        DataConfig(): r"data\.path, any file or folder, or by data\.name",
    }.items():
        with pytest.raises(DataError, match=match):
            read(config)
    monkeypatch.setenv("JAXREC_DATA", str(tmp_path))
    with pytest.raises(DataMissing, match="no data set 'ml-2m'"):
        read(DataConfig("ml-2m"))


def test_films_and_people_lie_beside_the_ratings(tmp_path):
    put(tmp_path, "ml/ratings.dat", joined("::"))
    put(tmp_path, "ml/movies.dat", "10::Amélie (2001)::Comedy|Romance\n99::x::y\n", "latin-1")
    put(tmp_path, "ml/users.dat", "1::F::25::3::00000\n")
    found = read(DataConfig(path=tmp_path / "ml"))
    assert found.items.text(0) == "Amélie (2001) | Comedy > Romance" and found.items.text(1) == ""
    assert found.people["age"][:2] == ("25", "") and found.interactions.n_items == 5
    whole = read(DataConfig(path=tmp_path / "ml", whole_catalogue=True))
    assert whole.interactions.n_items == 6 and whole.interactions.items[-1] == "99"
    assert whole.items.title[-1] == "x"


def test_films_of_the_other_movielens_sets(tmp_path):
    put(tmp_path, "100k/u.data", joined("\t"))
    flags = "|".join("1" if genre in (1, 5) else "0" for genre in range(19))
    put(tmp_path, "100k/u.item", f"10|Ça (1995)|01-Jan-1995||http|{flags}\n11|x\n", "latin-1")
    put(tmp_path, "100k/u.user", "1|24|M|technician|85711\n")
    found = read(DataConfig(path=tmp_path / "100k"))
    assert found.items.text(0) == "Ça (1995) | Action > Comedy"
    assert found.people["occupation"][0] == "technician" and found.problems.count == 1
    put(tmp_path, "latest/ratings.csv", LAYOUTS["ratings.csv"])
    put(tmp_path, "latest/tags.csv", "userId,movieId,tag,timestamp\n1,10,dull,900000000\n")
    movies = 'movieId,title,genres\n10,"Tea, the (1999)",Drama|War\n11,y,(no genres listed)\n'
    put(tmp_path, "latest/movies.csv", movies)
    found = read(DataConfig(path=tmp_path / "latest"))
    same_events(found)
    assert found.items.texts()[:2] == ["Tea, the (1999) | Drama > War", "y"]


def test_reviews_stay_beside_their_events_through_the_filters(tmp_path):
    rows = [
        {
            "reviewerID": u,
            "asin": i,
            "overall": r,
            "unixReviewTime": t,
            "reviewText": f"{u}/{i}/{t}",
        }
        for u, i, r, t in EVENTS + EVENTS[:5]
    ]
    path = put(tmp_path, "x_5.json", "".join(json.dumps(row) + "\n" for row in rows))
    meta = {"asin": "10", "title": "Tea &amp; milk", "brand": "B", "category": ["X", ["Y"], "X"]}
    put(tmp_path, "meta_x.json", f"{meta}\n")  # as 2014 wrote them, in Python's notation
    found = read(DataConfig(path=path, duplicates="last", min_rating=2.0, min_item=7))
    events = found.interactions
    assert len(events) == 28 and events.rating_T.min() >= 2
    for row in range(len(events)):
        user, item = events.users[events.user_T[row]], events.items[events.item_T[row]]
        assert found.reviews.text[row] == f"{user}/{item}/{events.time_T[row]}"
    table = found.arrow()
    assert table.column_names == ["user", "item", "rating", "time", "review", "summary"]
    assert table["review"].to_pylist() == list(found.reviews.text)
    assert read(DataConfig(path=path)).items.text(0) == "Tea & milk | B | X > ['Y']"


def test_a_pair_of_shops_shares_only_its_first_people(tmp_path):
    # People 0..3 are the same in both; 3 is cold in a, 2 in b; number 4 is somebody else in each.
    put(tmp_path, "a_b/train.txt", "4\t0\n0\t1\n1\t0\n2\t1\n")
    put(tmp_path, "a_b/valid.txt", "3\t0\n")
    put(tmp_path, "a_b/test.txt", "3\t1\n")
    put(tmp_path, "b_a/train.txt.gz", "4\t0\n0\t0\n1\t1\n3\t2\n")
    put(tmp_path, "b_a/valid.txt", "2\t0\n")
    put(tmp_path, "b_a/test.txt", "2\t2\n2\tx\n")
    found = read(DataConfig(path=tmp_path))
    events = found.interactions
    assert set(events.users) == {"0", "1", "2", "3", "a:4", "b:4"}
    assert found.shops == ("a", "b") and found.problems.count == 1
    for name, shop in zip(events.items, found.shop_I, strict=True):
        assert name.startswith(found.shops[shop])
    test = found.held_out["test"]
    asked = [(test.users[u], test.items[i]) for u, i in zip(test.user_T, test.item_T, strict=True)]
    assert asked == [("3", "a/1"), ("2", "b/2")]
    put(tmp_path, "a_b/train.txt", "3\t0\n")
    with pytest.raises(DataError, match="cold in a"):
        read(DataConfig(path=tmp_path))


def test_rows_of_histories_are_joined_and_kept_as_published(tmp_path):
    put(tmp_path, "x.item.json", json.dumps({str(i): {"title": f"t{i}"} for i in range(6)}))
    head = "user_id,history_item_id,item_id\n"
    put(tmp_path, "valid_x.csv", head + 'u,"[0, 1]",2\n')
    put(tmp_path, "test_x.csv", head + 'u,"[1, 2, 5]",3\nv,[4],4\nv,[4],9\n')
    found = read(DataConfig(path=tmp_path))
    whole = histories(found.interactions)
    assert [row.tolist() for row in whole] == [[0, 1, 2, 5, 3], [4, 4]]
    split = found.published
    assert [row.tolist() for row in split.train] == [[0, 1], [4]]
    assert split.valid.target_B.tolist() == [2] and split.test.target_B.tolist() == [3, 4]
    assert split.test.histories[0].tolist() == [1, 2, 5] and found.problems.count == 1


once = functools.cache(read)  # public sets, which several tests look at


PUBLISHED = {  # events, people, items: as each set's papers count them
    DataConfig("ml-100k"): (100_000, 943, 1682),
    DataConfig("ml-1m"): (1_000_209, 6040, 3706),
    DataConfig("amazon14-beauty"): (198_502, 22_363, 12_101),
    DataConfig("amazon14-sports"): (296_337, 35_598, 18_357),
    DataConfig("amazon18-gift-cards"): (2972, 458, 148),
    DataConfig("amazon14-musical-instruments-reviews"): (10_261, 1429, 900),
    DataConfig("amazon-instruments-letter"): (206_153, 24_772, 9922),
    DataConfig("cdrib-game_video"): (155_036 + 156_091, 42_303, 12_319 + 8751),
}


@pytest.mark.parametrize("config", PUBLISHED, ids=lambda config: config.name)
def test_published_counts(data_dir, config):
    found = once(config)
    events = found.interactions
    assert (len(events), events.n_users, events.n_items) == PUBLISHED[config]
    assert found.problems.count == 0
    assert np.bincount(events.user_T, minlength=events.n_users).min() >= (0 if found.shops else 1)


def test_what_the_public_sets_tell_of_their_items(data_dir):
    hundred = once(DataConfig("ml-100k"))
    assert hundred.interactions.rating_T.mean() == pytest.approx(3.52986)
    assert set(hundred.people) >= {"age", "gender", "occupation"}
    first = block_folds(hundred.interactions)[0][1]
    assert len(np.unique(first.user_T)) == 459 and len(np.unique(first.item_T)) == 1410
    beauty = once(DataConfig("amazon14-beauty"))
    assert all(beauty.items.title) and len(beauty.items.code) == 12_101
    assert beauty.items.text(0).endswith("0.5-Fluid Ounce | OPI | Makeup > Nails > Nail Polish")
    assert len(leave_one_out(histories(beauty.interactions)).test) == 22_363
    cards = once(DataConfig("amazon18-gift-cards", whole_catalogue=True))
    assert cards.interactions.n_items == 1547 and cards.reviews.text[0] == "Another great gift."
    industrial = once(DataConfig("amazon18-minionerec-industrial"))
    assert (len(industrial.published.valid), len(industrial.published.test)) == (4532, 4533)
    assert industrial.interactions.n_items == len(industrial.items.title) == 3686
    pair = once(DataConfig("cdrib-game_video"))
    assert (len(pair.held_out["valid"]), len(pair.held_out["test"])) == (1381 + 1435, 1304 + 1458)
    assert sum(":" not in user for user in pair.interactions.users) == 2179


def test_dropping_rare_items_gives_the_benchmark_of_ml_1m(data_dir):
    events = once(DataConfig("ml-1m", min_item=5)).interactions
    assert (len(events), events.n_users, events.n_items) == (999_611, 6040, 3416)
    assert [events.items[i] for i in histories(events)[0][:4]] == ["3186", "1721", "1022", "1270"]
