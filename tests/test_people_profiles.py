"""Profiles: the specification's fields, one pass over Arrow in any form, updates and purges that equal a rebuild."""

import math
import subprocess
import sys

import datasets
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from jaxrec import text_metrics
from jaxrec.config import ConfigError, RunError
from jaxrec.people import build
from jaxrec.people.profiles import ProfileConfig, Profiles, UnknownPerson, read_profiles
from jaxrec.people.reviews import Review, ReviewColumns, ReviewsError, reviews
from jaxrec.people.traits import rhythm
from jaxrec.people.words import SENTIMENT_CHARACTERS, sentiment, words
from jaxrec.retrieval.lexical import LexicalIndex

DAY = 86_400
REVIEWS = [
    Review("ann", "mug", 5.0, 100 * DAY, ("kitchen",), "I love this mug, the best mug"),
    Review("bob", "drill", 1.0, 10 * DAY, ("tools",), "Terrible drill. Broken drill, I hate it"),
    Review("ann", "pan", 3.0, 130 * DAY, ("kitchen", "steel"), "A plain pan"),
    Review("ann", "mug", 4.0, 190 * DAY, ("kitchen",), "Second mug, lovely"),
    Review("cat", "mug"),
    Review("dan", "saw", 2.0),
]


def table(rows: list[Review]) -> pa.Table:
    columns = [pa.field("user", pa.string()), pa.field("item", pa.string())]
    columns += [pa.field("rating", pa.float64()), pa.field("time", pa.int64())]
    columns += [pa.field("category", pa.list_(pa.string())), pa.field("text", pa.string())]
    return pa.Table.from_pylist([row._asdict() for row in rows], pa.schema(columns))


def everybody(profiles: Profiles) -> dict:
    return {name: profiles[name] for name in profiles}


@pytest.fixture(scope="module")
def built() -> Profiles:
    return Profiles.build(table(REVIEWS))


def test_a_profile_has_the_fields_of_the_specification(built):
    ann = built["ann"]
    assert ann["activity"] == {"n_reviews": 3, "n_unique_items": 2, "review_frequency": 1.0}
    assert ann["preferences"]["avg_rating"] == 4.0
    assert ann["preferences"]["rating_std"] == pytest.approx(np.std([5, 3, 4], ddof=1))
    assert ann["preferences"]["favorite_categories"] == ["kitchen", "steel"]
    assert (
        ann["language"]["top_keywords"][0] == "mug"
    )  # in two of her reviews, once counted in each
    assert "the" not in ann["language"]["top_keywords"]
    assert ann["language"]["avg_review_length"] == pytest.approx((7 + 3 + 3) / 3)
    assert ann["language"]["sentiment"] > 0.3 > -0.5 > built["bob"]["language"]["sentiment"]


def test_what_is_not_known_is_absent(built):
    assert built["cat"] == {
        "activity": {"n_reviews": 1, "n_unique_items": 1},
        "preferences": {},
        "language": {},
    }
    assert built["dan"]["preferences"] == {"avg_rating": 2.0}  # one rating has no deviation
    blank = Profiles.build(table([Review("eve", "mug", float("nan"), None, (), "  ")]))
    assert blank["eve"]["preferences"] == {} and blank["eve"]["language"] == {}


def test_frequency_is_per_month_and_a_crowded_day_is_no_rate(built):
    times = [0, DAY, 60 * DAY]
    found = Profiles.build(table([Review("ann", "mug", time=t) for t in times]))
    assert found["ann"]["activity"]["review_frequency"] == pytest.approx(1.5)
    same_day = Profiles.build(table([Review("ann", "mug", time=7) for _ in range(4)]))
    assert same_day["ann"]["activity"]["review_frequency"] == 4.0


def test_keywords_prefer_what_others_do_not_say():
    rows = [Review(f"p{i}", "x", text="gift gift wonderful") for i in range(5)]
    found = Profiles.build(table([*rows, Review("ann", "x", text="wonderful gift teapot")]))
    assert found["ann"]["language"]["top_keywords"] == ["teapot", "gift", "wonderful"]


@pytest.mark.parametrize("form", ["table", "reader", "dataset", "stream", "parquet", "arrow"])
def test_every_form_of_arrow_gives_the_same(built, tmp_path, form):
    whole = table(REVIEWS)
    if form == "reader":
        source = pa.RecordBatchReader.from_batches(whole.schema, whole.to_batches(2))
    elif form == "dataset":  # a shuffled dataset: its table is not in its own order
        source = datasets.Dataset(whole).select([5, 4, 3, 2, 1, 0]).select([5, 4, 3, 2, 1, 0])
    elif form == "stream":
        source = datasets.Dataset(whole).to_iterable_dataset(num_shards=2)
    elif form == "parquet":
        source = tmp_path / "reviews.parquet"
        parquet.write_table(whole, source)
    elif form == "arrow":
        source = tmp_path / "reviews.arrow"
        feather.write_feather(whole, source, compression="uncompressed")
    else:
        source = whole
    assert everybody(Profiles.build(source)) == everybody(built)


def test_batches_are_read_one_at_a_time():
    taken = []

    def batches():
        for i, batch in enumerate(table(REVIEWS * 50).to_batches(10)):
            taken.append(i)
            yield batch

    first = next(reviews(batches()))
    assert first.user == "ann" and taken == [0]


def test_parts_together_are_the_whole():
    whole, parts = Profiles(), Profiles()
    for review in REVIEWS:
        whole.update(review)
    for at in (0, 2, 3):
        part = Profiles()
        for review in REVIEWS[at : {0: 2, 2: 3, 3: 6}[at]]:
            part.update(review)
        parts.extend(part.state())
    assert everybody(parts) == everybody(whole)
    state, wanted = parts.state(), whole.state()
    assert state.keys() == wanted.keys()
    for name in state:
        np.testing.assert_array_equal(state[name], wanted[name], err_msg=name)


def test_the_command_writes_what_the_library_builds(tmp_path, capsys):
    source, out = tmp_path / "reviews.parquet", tmp_path / "profiles.parquet"
    parquet.write_table(table(REVIEWS), source)
    build.main(build.BuildConfig(str(source), out=str(out)))
    assert dict(read_profiles(out)) == everybody(Profiles.build(table(REVIEWS)))
    assert "4 people" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, source.name]
    for reviews_, said in (("", "which reviews"), ("none.parquet", "no file of reviews")):
        with pytest.raises(ConfigError, match=said):
            build.main(build.BuildConfig(reviews_, out=str(out)))
    with pytest.raises(RunError, match=r"^reviews 1-6: there is no column 'who'"):
        build.main(build.BuildConfig(str(source), ReviewColumns(user="who"), out=str(out)))


@pytest.mark.parametrize("seed", range(3))
def test_updating_by_one_event_equals_building_anew(seed):
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(REVIEWS))
    profiles = Profiles.build(table([REVIEWS[i] for i in order[:2]]))
    for n in range(3, len(order) + 1):
        everybody(profiles)  # reading between updates must not freeze the counts of words
        profiles.update(REVIEWS[order[n - 1]])
        assert everybody(profiles) == everybody(
            Profiles.build(table([REVIEWS[i] for i in order[:n]]))
        )


@pytest.mark.parametrize("before", [0, 50 * DAY, 131 * DAY, 1000 * DAY])
def test_purging_equals_building_without_what_is_stale(before):
    profiles = Profiles.build(table(REVIEWS))
    left = [r for r in REVIEWS if r.time is None or r.time >= before]
    assert profiles.purge(before) == len(REVIEWS) - len(left)
    assert everybody(profiles) == everybody(Profiles.build(table(left)))
    profiles.update(REVIEWS[0])
    assert everybody(profiles) == everybody(Profiles.build(table([*left, REVIEWS[0]])))


def test_purged_people_are_gone(built):
    profiles = Profiles.build(table(REVIEWS))
    profiles.purge(50 * DAY)
    assert "bob" not in profiles and len(profiles) == 3
    with pytest.raises(UnknownPerson, match="nobody called 'bob'"):
        profiles["bob"]


def test_written_profiles_are_read_back(built, tmp_path):
    path = tmp_path / "profiles.parquet"
    built.write(path, batch=2)
    assert dict(read_profiles(path)) == everybody(built)
    row = parquet.read_table(path).to_pylist()[2]
    assert row["user"] == "cat" and row["preferences"]["avg_rating"] is None


def test_a_configuration_says_how_much_is_listed():
    short = ProfileConfig(keywords=1, categories=1, rate_sentiment=False)
    found = Profiles.build(table(REVIEWS), config=short)["ann"]
    assert found["preferences"]["favorite_categories"] == ["kitchen"]
    assert len(found["language"]["top_keywords"]) == 1 and "sentiment" not in found["language"]


def test_timestamps_and_several_text_columns():
    when = pa.array([1_000_000_000_000, None], pa.timestamp("ms"))
    whole = pa.table({"who": ["a", "b"], "what": ["x", "y"], "when": when})
    whole = whole.append_column("head", pa.array(["Nice", None]))
    whole = whole.append_column("body", pa.array(["A good one", "  "]))
    columns = ReviewColumns("who", "what", time="when", text=("head", "body", "not there"))
    found = list(reviews(whole, columns))
    assert found[0] == Review("a", "x", None, 1_000_000_000, (), "Nice. A good one")
    assert found[1] == Review("b", "y")


def test_bad_sources_are_said_in_a_line(tmp_path):
    with pytest.raises(ReviewsError, match="no column 'reviewer'"):
        list(reviews(table(REVIEWS), ReviewColumns(user="reviewer")))
    with pytest.raises(ReviewsError, match="no such file"):
        list(reviews(tmp_path / "none.parquet"))
    (tmp_path / "text.parquet").write_text("not parquet at all")
    with pytest.raises(ReviewsError, match="neither Parquet nor"):
        list(reviews(tmp_path / "text.parquet"))
    with pytest.raises(ReviewsError, match="holds no Arrow data"):
        list(reviews(7))


def test_bad_rows_are_left_out_and_counted(caplog):
    rows = pa.table({"user": ["a", None, "b"], "item": ["x"] * 3, "rating": ["4,5", "5", "good"]})
    assert list(reviews(rows)) == [Review("a", "x", 4.5), Review("b", "x")]
    assert "no user or no item: left out in 1" in caplog.text
    assert "rating is no number: unknown in 1" in caplog.text


@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
def test_times_in_any_unit(unit):
    when = [1_600_000_000, 1_600_000_000 + 200 * 86_400]
    whole = pa.table({"user": ["a"] * 2, "item": ["x"] * 2, "time": [t * unit for t in when]})
    assert Profiles.build(whole)["a"]["activity"]["review_frequency"] == pytest.approx(0.3)
    assert rhythm(np.array(when) * unit) == rhythm(np.array(when))


def test_half_a_character_stops_no_profile(tmp_path):
    made = Profiles()
    for half in ("\ud83d", "\ud83e"):
        made.update(Review(f"A{half}", "B", 5.0, 1, (f"Toys {half}",), f"love {half}"))
    made.write(tmp_path / "p.parquet")
    assert {name for name, _ in read_profiles(tmp_path / "p.parquet")} == {"A\\ud83d", "A\\ud83e"}


def test_words_of_any_script_without_stop_words():
    assert words("I don't like THE Café, it's 24-hour") == ["like", "café", "hour"]
    assert words("Подарок на день рождения") == ["подарок", "на", "день", "рождения"]
    assert words("🎂🎂 12 a ❤️ 👨‍👩‍👧") == []


# A mark is part of its letter, and an accent the same however it is written.
MARKED = {
    "आधुनिक मानक हिन्दी": ["आधुनिक", "मानक", "हिन्दी"],
    "ప్రధానమంత్రిని కలుసుకున్నారు": ["ప్రధానమంత్రిని", "కలుసుకున్నారు"],
    "மொழி நூல்": ["மொழி", "நூல்"],
    "หนังสือ ดีมาก": ["หนังสือ", "ดีมาก"],
    "cafe\u0301 cre\u0300me": ["café", "crème"],
    "İstanbul KAHVESİ": ["istanbul", "kahvesi"],
    "می\u200cخواهم کِتاب": ["می\u200cخواهم", "کِتاب"],
    "נָמֵר": ["נָמֵר"],
}


@pytest.mark.parametrize("text", MARKED, ids=range(len(MARKED)))
def test_marks_are_letters_everywhere(text):
    assert words(text) == MARKED[text]
    assert text_metrics.words(text) == MARKED[text]
    index = LexicalIndex.build(["something else", text])
    assert index.search(MARKED[text][0], 1).items_BJ.tolist() == [[1]]


def test_sentiment_bounds_and_long_texts():
    assert sentiment("I love it, wonderful!") > 0.7 and sentiment("awful, I hate it") < -0.7
    assert sentiment("") == 0.0
    long = "good " * 100_000  # quadratic without the limit: minutes
    assert sentiment(long) == sentiment(long[:SENTIMENT_CHARACTERS]) <= 1


def test_people_import_is_light():
    heavy = (
        "{'jax', 'flax', 'sklearn', 'pyarrow', 'datasets', 'vaderSentiment', 'matplotlib', 'torch'}"
    )
    rooms = "jaxrec.people.profiles, jaxrec.people.personas, jaxrec.people.unified, jaxrec.people.traits"
    code = f"import sys, jaxrec.people, {rooms}; print(sorted(set(sys.modules) & {heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_real_reviews(data_dir):
    source = data_dir / "amazon18-gift-cards" / "Gift_Cards_5.json.gz"
    whole = pa.Table.from_pandas(__import__("pandas").read_json(source, lines=True))
    columns = ReviewColumns(
        "reviewerID", "asin", "overall", "unixReviewTime", text=("summary", "reviewText")
    )
    found = Profiles.build(whole, columns, ProfileConfig(rate_sentiment=False))
    assert len(found) == 458
    counts = [found[name]["activity"]["n_reviews"] for name in found]
    assert sum(counts) == 2972 and min(counts) >= 5
    mean = sum(
        found[n]["preferences"]["avg_rating"] * c for n, c in zip(found, counts, strict=True)
    )
    assert mean / 2972 == pytest.approx(whole["overall"].to_numpy().mean())
    assert not any(
        isinstance(v, float) and math.isnan(v)
        for name in found
        for section in found[name].values()
        for v in section.values()
    )
