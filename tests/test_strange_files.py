"""Other people's files: separators, encodings, headers and dialects; what is guessed or left out is said."""

import gzip
import json

import pytest

from jaxrec.data.interaction_sets import DataConfig, read
from jaxrec.data.readers.raw import DataError

NAMED = (
    "user_id,item_id,rating,timestamp\nJosé,Mötley,5,1600000000\nJosè,Mätley,3,1600000001\n"
    "Ana,Mötley,4,1600000002\n"
)
KEYS, *ROWS = [line.split(",") for line in NAMED.split()]
OBJECTS = [dict(zip(KEYS, row, strict=True)) for row in ROWS]
PEOPLE, ITEMS = ("José", "Josè", "Ana"), ("Mötley", "Mätley")
FORMS = {
    "utf16.csv": NAMED.encode("utf-16"),
    "utf16le.csv": NAMED.encode("utf-16-le"),
    "utf32.csv": NAMED.encode("utf-32"),
    "bom.csv": NAMED.encode("utf-8-sig"),
    "bom_quoted.csv": NAMED.replace(",", ";").replace("user_id", '"user_id"').encode("utf-8-sig"),
    "latin.csv": NAMED.encode("latin-1"),
    "latin.tsv": NAMED.replace(",", "\t").encode("cp1252"),
    "pipe.csv": NAMED.replace(",", "|").encode(),
    "packed.csv": gzip.compress(NAMED.encode()),
    "plain.csv.gz": NAMED.encode(),
    "mac.csv": NAMED.replace("\n", "\r").encode(),
    "spaced.csv": NAMED.replace(",", " , ").encode(),
    "twice.csv": (NAMED + "user_id,item_id,rating,timestamp\n").encode(),
    "array.json": json.dumps(OBJECTS).encode(),
    "loose.json": "".join(f"{row}\n" for row in OBJECTS).encode(),
}  # fmt: skip


def put(folder, name, data):
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder / name


@pytest.mark.parametrize("name", FORMS)
def test_the_same_people_and_items_in_every_form(tmp_path, name):
    events = read(DataConfig(path=put(tmp_path, name, FORMS[name]))).interactions
    assert events.users == PEOPLE and events.items == ITEMS
    assert events.rating_T.tolist() == [5, 3, 4] and events.time_T[0] == 1_600_000_000


HEADERS = {  # as published: the columns, a row, and (user, item, rating, time) of it
    "user_id,book_id,is_read,rating\n0,948,1,0\n": ("0", "948", 0, None),
    "timestamp,visitorid,event,itemid,transactionid\n1433221332117,2,view,3,\n": ("2", "3", None, 1433221332),
    "sessionId;userId;itemId;timeframe;eventdate\n1;7;81766;526309;2016-05-09\n": ("7", "81766", None, 1462752000),
    "t_dat,customer_id,article_id,price\n2018-09-20,058a1,0663713001,0.05\n": ("058a1", "0663713001", None, 1537401600),
    "userID\tartistID\tweight\n2\t51\t13883\n": ("2", "51", None, None),
    "user_id,item_id,behavior_type,time\n9,2,1,2014-12-06 02\n": ("9", "2", None, 1417831200),
    "session_id:token\titem_id:token\ttimestamp:float\ns1\ta\t1600000000\n": ("s1", "a", None, 1600000000),
    '"User-ID";"ISBN";"Book-Rating"\n"276725";"034545104X";"0"\n': ("276725", "034545104X", 0, None),
    "Клиент;Код товара;Оценка;Дата заказа\nАнна;017;4,5;05.01.2024\n": ("Анна", "017", 4.5, 1704412800),
    "покупатель,артикул,дата\nАнна,017,2024-01-05\n": ("Анна", "017", None, 1704412800),
    "account,sku,grade,ordered_at\nann,K-1,3,2024-01-05T00:00:00Z\n": ("ann", "K-1", 3, 1704412800),
    "reviewer|movie|score\nann|x|3\n": ("ann", "x", 3, None),
}  # fmt: skip


@pytest.mark.parametrize("text", HEADERS, ids=range(len(HEADERS)))
def test_headers_as_others_write_them(tmp_path, text):
    events = read(DataConfig(path=put(tmp_path, "x.csv", text))).interactions
    user, item, rating, time = HEADERS[text]
    assert (events.users, events.items) == ((user,), (item,))
    assert (None if events.rating_T is None else events.rating_T[0]) == rating
    assert (None if events.time_T is None else events.time_T[0]) == time


REFUSED = {
    "who,what,how\na,x,5\n": "which column is the user",
    "user_id:token\tp_id:token\n1\ta\n": "which column is the item",
    "user_id:token\titem_id\n1\ta\n": "'item_id' has none",
    "user_id:token\titem_id:token\ttags:token_seq\n1\ta\tx y\n": "'tags' holds sequences",
    "customer,client,product\na,b,x\n": "customer or client",
    "Id,Title,User_id\n1,a,b\n": "Title or Id",
    "user,item,item\na,b,c\n": "two columns are called 'item'",
    "user,item,date\na,x,03/04/2020\nb,y,01/02/2020\n": "data.day_first",
    "user,item,rating\na,x,like\n": "the rating is not a number",
    "1,2268318,2520377,pv,1511544070\n1,2333346,2520771,pv,1511561733\n": "5 columns without",
    "1,2014-04-07T10:51:09.277Z,214536502,0\n" * 2: "do not look like user, item",
    "user_id,item_id\n": "no event is left",
    "PK\x03\x04...": "zip archive or an Excel workbook",
    "\x00\x01\x02\x03" * 9: "not a text file",
    "": "no rows",
}


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_known_is_refused_in_one_line(tmp_path, text):
    with pytest.raises(DataError, match=REFUSED[text]) as refusal:
        read(DataConfig(path=put(tmp_path, "x.csv", text)))
    assert "\n" not in str(refusal.value)


def test_what_was_guessed_and_left_out_is_said(tmp_path):
    said = lambda text, **more: read(
        DataConfig(path=put(tmp_path, "x.csv", text), **more)
    ).summary()
    assert "not read: colour, size" in said("user,colour,item,size\na,b,c,d\n")
    assert "no header, taken by their values: user = column 0" in said("alice,pen\nbob,ink\n")
    assert "read as latin-1" in said("user,item\nJosé,x\n".encode("latin-1"))
    assert "column 'session_id' is taken for the user" in said("session_id,item\na,b\n")
    assert "day first" in said("user,item,date\na,x,03/04/2020\nb,y,25/12/2020\n")
    assert "ratings of 99 stand apart" in said("user,item,rating\na,x,99\na,y,3\nb,x,4\n")
    assert "times from 829 to 1111 are no dates" in said("user,item,time\na,x,0829\na,y,1111\n")
    assert "Unicode form alone" in said("user,item\ncafe\u0301,x\ncafé,x\n")
    assert "not read: date" in said("user,item,date\na,x,03/04/2020\n", time="none")


def test_a_bad_row_costs_that_row_alone(tmp_path):
    rows = 'user,item,rating,text\na,x,5,ok\nb,y,4,"never closed\nc,z,3,fine\nd,x,2,"really"\n'
    found = read(DataConfig(path=put(tmp_path, "x.csv", rows)))
    assert found.interactions.users == ("a", "c", "d") and found.problems.count == 1
    odd = [
        *({"user_id": u, "item_id": 1, "rating": 1} for u in (None, "", "NA", [1], "A\ud83d", float("nan"))),
        *({"user_id": 1, "item_id": 1, "rating": r} for r in (None, True, float("inf"), "x")),
        {"user_id": 0, "item_id": 0.0, "rating": 0, "text": "cut \ud83d"},
    ]  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in odd) + "[1]\nnull\n{\n"
    found = read(DataConfig(path=put(tmp_path, "x.jsonl", lines)))
    assert found.interactions.users == found.interactions.items == ("0",)
    assert found.problems.count == 13 and found.interactions.rating_T.tolist() == [0]
    mixed = NAMED.encode() * 3 + "Jos\xe9,b,5,1600000009\n".encode("latin-1")
    found = read(DataConfig(path=put(tmp_path, "y.csv", mixed)))
    assert len(found.interactions) == 9 and found.interactions.users == PEOPLE


def test_histories_of_recbole_and_films_of_netflix(tmp_path):
    head = "user_id:token\titem_id:token\ttimestamp:float\titem_id_list:token_seq\ttimestamp_list:float_seq\n"
    rows = "1\t3\t3\t1 2\t1 2\n1\t4\t4\t1 2 3\t1 2 3\n2\t9\t9\t\t\n3\t1\t4\t2\t1 2\n"
    found = read(DataConfig(path=put(tmp_path, "x.inter", head + rows)))
    events = found.interactions
    assert [events.items[i] for i in events.item_T] == ["1", "2", "3", "4", "9"]
    assert events.time_T.tolist() == [1, 2, 3, 4, 9] and found.problems.count == 1
    put(tmp_path, "movie_titles.csv", "1,2003,Dinosaur Planet\n2,2004,Isle of Man, Review\n")
    lines = "1:\n1488844,3,2005-09-06\n2:\n885013,4,2005-10-19\n2,x,y\n"
    found = read(DataConfig(path=put(tmp_path, "combined_data_1.txt", lines)))
    assert found.items.title == ("Dinosaur Planet", "Isle of Man, Review")
    assert found.interactions.time_T[0] == 1_125_964_800 and found.problems.count == 1


def test_tables_of_arrow(tmp_path):
    import pyarrow as pa
    from pyarrow import feather, parquet

    times = pa.array([1_600_000_000_123_456_789] * 2, pa.timestamp("ns", "UTC"))
    table = pa.table({"member": [0.0, 1.0], "book": ["x", "y"], "created_at": times})
    parquet.write_table(table, tmp_path / "a.parquet")
    feather.write_feather(table, tmp_path / "b.feather")
    for name in ("a.parquet", "b.feather"):
        events = read(DataConfig(path=tmp_path / name)).interactions
        assert events.users == ("0", "1") and events.time_T.tolist() == [1_600_000_000] * 2
    with pytest.raises(DataError, match="neither Parquet nor Feather"):
        read(DataConfig(path=put(tmp_path, "c.parquet", "PAR1")))


def test_a_single_table_tells_of_its_items(tmp_path):
    text = "customer,product_id,title,category,price\na,1,Tea,Drinks,5\nb,2,Ink,Office,3\nb,1,,,\n"
    found = read(DataConfig(path=put(tmp_path, "x.csv", text)))
    assert found.items.texts() == ["Tea | Drinks", "Ink | Office"]
    assert "not read: price" in found.summary()
