"""Readers of people's labels: both LeWiDi years, any CSV, and what is wrong with a file."""

import gzip
import json

import numpy as np
import pytest

from jaxrec.data.judgements import JudgementError, JudgementsConfig, find, load_json, read


def write_csv(path, rows, head="person,item,text,label"):
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return str(path)


def test_csv_by_column_names_and_gzip(tmp_path):
    text = "who,what,said,in,stars\na,1,hello,en,5.0\nb,1,hello,en,1\na,2,hallo,de,3\n"
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(text.encode("utf-8-sig")))
    cfg = JudgementsConfig((str(path),), "who", "what", ("said",), "stars", "in")
    data = read(cfg)
    assert data.people == ("a", "b") and data.labels == ("1", "3", "5")
    assert data.languages == ("de", "en") and data.parts == (("hello",), ("hallo",))
    assert [data.labels[i] for i in data.label_N] == ["5", "1", "3"]
    assert data.language_of_people().tolist() == [0, 1]  # of one each, the first
    assert not data.skipped


def test_labels_are_in_numeric_order(tmp_path):
    path = write_csv(tmp_path / "x.csv", [f"p,{i},t{i},{i}" for i in (10, -5, 2)])
    assert read(JudgementsConfig((path,))).labels == ("-5", "2", "10")


def test_malformed_rows_are_counted_and_shown(tmp_path):
    rows = ["a,1,one,0", "b,1,one,1", ",1,one,0", "a,2,two,", "a,3,three,1,extra", "a,1,one,1",
            "b,1,another,1", "c,9,one,1", "c,1,one,0"]  # fmt: skip
    data = read(JudgementsConfig((write_csv(tmp_path / "x.csv", rows),)))
    assert len(data.person_N) == 3 and len(data.parts) == 1  # item 9 has item 1's text: one item
    assert sum(data.skipped.values()) == 6
    assert all(why in data.summary() for why in data.skipped)


def test_both_lewidi_years(tmp_path):
    old = {"1": {"text": "a", "annotators": "A,B", "annotations": "0,1", "lang": "en"},
           "2": {"text": "b", "annotators": "A", "annotations": "0,1", "lang": "en"},
           "3": {"text": json.dumps({"agent": "hi", "user": "ho"}), "annotators": "A", "annotations": "1"}}  # fmt: skip
    new = {
        "1": {
            "text": {"post": "p", "reply": "r"},
            "annotations": {"A": "1", "C": 0.0},
            "lang": "de",
        },
        "2": 7,
    }
    for name, content in (("old.json", old), ("new.json", new)):
        (tmp_path / name).write_text(json.dumps(content))
    files = tuple(str(tmp_path / name) for name in ("old.json", "new.json"))
    data = read(JudgementsConfig(files))
    assert data.people == ("A", "B", "C") and data.labels == ("0", "1")
    assert data.parts == (("a",), ("hi", "ho"), ("p", "r"))  # key 1 of two files is two items
    assert data.languages == ("", "de", "en") and len(data.person_N) == 5
    assert set(data.skipped) == {
        "annotators and annotations of different number",
        "item without text or annotations",
    }


def test_trailing_commas_are_read_and_texts_left_alone():
    assert load_json('{"a": ["x,]", 1,], "b": ",}",}') == {"a": ["x,]", 1], "b": ",}"}
    with pytest.raises(json.JSONDecodeError):
        load_json('{"a": }')


@pytest.mark.parametrize(
    ("head", "rows", "said"),
    [
        ("person,item,words,label", ["a,1,t,0"], "no column 'text'.*words"),
        ("person,item,text,label", ["a,1,t,0", "b,1,t,0"], "every label is '0'"),
        (
            "person,item,text,label",
            [f"a,{i},t{i},{i / 7}" for i in range(60)],
            "60 different labels",
        ),
        ("person,item,text,label", ["a,1,,0"], "no usable row"),
    ],
)
def test_clear_errors(tmp_path, head, rows, said):
    with pytest.raises(JudgementError, match=said):
        read(JudgementsConfig((write_csv(tmp_path / "x.csv", rows, head),)))


def test_missing_and_unknown_files(tmp_path, monkeypatch):
    monkeypatch.delenv("JAXREC_DATA", raising=False)
    with pytest.raises(JudgementError, match="no data"):
        read(JudgementsConfig())
    with pytest.raises(JudgementError, match=r"no such file.*JAXREC_DATA"):
        read(JudgementsConfig(("nowhere.csv",)))
    (tmp_path / "x.parquet").write_text("")
    with pytest.raises(JudgementError, match="expected"):
        read(JudgementsConfig((str(tmp_path / "x.parquet"),)))
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(JudgementError, match="not a LeWiDi file"):
        read(JudgementsConfig((str(tmp_path / "x.json"),)))
    monkeypatch.setenv("JAXREC_DATA", str(tmp_path))
    assert find("x.json") == tmp_path / "x.json"


def test_published_counts(data_dir):
    data = read(
        JudgementsConfig(
            ("popquorn/offensiveness.csv.gz",), "user_id", "instance_id", label="offensiveness"
        )
    )
    assert (len(data.person_N), len(data.people), len(data.parts)) == (13_036, 262, 1_500)
    assert np.bincount(data.label_N).tolist() == [7516, 2190, 1590, 1039, 701]
    data = read(
        JudgementsConfig(
            (
                "lewidi/LeWiDi_2-2023__HS-Brexit_train.json.gz",
                "lewidi/LeWiDi_2-2023__HS-Brexit_test.json.gz",
            )
        )
    )
    assert len(data.people) == 6 and data.labels == ("0", "1")
