"""A shop's own files: events and what its items are, under whatever names the columns have."""

import json

import pytest

from jaxrec.data.interaction_sets import DataConfig, read
from jaxrec.data.readers.raw import DataError

ORDERS = (
    "customer,product,stars,when\nanna,K-1,5,2024-01-05 10:00\nboris,K-1,4,2024-01-06\n"
    "anna,K-2,3,2024-02-01\nclara,K-9,1,2024-02-04\n"
)
TITLES = (
    "sku,name,brand,category,price,colour\nK-1,Steel kettle,Bork,Kitchen > Kettles,39.90,grey\n"
    "K-2,Mug,Bork,Kitchen,5,white\nK-7,Mug,Ikea,Kitchen,4,red\n"
)


def put(folder, name, text, encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def test_orders_and_titles_of_a_shop(tmp_path):
    orders, titles = put(tmp_path, "orders.csv", ORDERS), put(tmp_path, "titles.csv", TITLES)
    found = read(DataConfig("amazon14-beauty", path=str(orders), items=str(titles)))
    assert found.name == "orders.csv"
    assert found.items.title == ("Steel kettle", "Mug", "") and found.items.price[0] == "39.90"
    assert found.items.text(0) == "Steel kettle | Bork | Kitchen > Kettles"
    said = found.summary()
    assert "not read: colour" in said and "1 of 3 items with events have no title ('K-9')" in said
    assert "1 items have no events ('K-7')" in said and "2024-01-05 to 2024-02-04" in said
    whole = read(DataConfig(path=orders, items=titles, whole_catalogue=True))
    assert whole.items.title[-1] == "Mug" and whole.interactions.n_items == 4


def test_a_russian_shop_from_a_spreadsheet(tmp_path):
    orders = put(
        tmp_path,
        "заказы.csv",
        "клиент;товар;оценка;дата\nАнна;017;4,5;05.01.2024\nБорис;18;3;06.01.2024\n",
        "cp1251",
    )
    titles = put(
        tmp_path, "t.csv", "код_товара;название;цена\n17;Чайник;3990\n18;Кружка;5\n", "cp1251"
    )
    found = read(DataConfig(path=orders, items=titles))
    assert found.interactions.users == ("Анна", "Борис")
    assert found.interactions.rating_T.tolist() == [4.5, 3.0]
    assert found.items.title == ("Чайник", "Кружка") and found.items.price == ("3990", "5")
    assert "read as cp1251" in found.summary() and "'17' there, '017' here" in found.summary()


FORMATS = {
    "x.tsv": "item_id\ttitle\n1\tTea\n2\tMilk\n",
    "x.json": json.dumps([{"id": 1, "title": "Tea"}, {"id": 2, "title": "Milk"}]),
    "x.jsonl": '{"product_id": 1.0, "product_title": "Tea"}\n{"product_id": 2, "product_title": "Milk"}\n',
    "x.csv": "1,Tea\n2,Milk\n",
    "x.dat": "1::Tea::a|b\n2::Milk::c\n",
}


@pytest.mark.parametrize("name", FORMATS)
def test_titles_in_every_format(tmp_path, name):
    events = put(tmp_path, "events.csv", "user,item,rating\na,1,5\nb,2,4\n")
    found = read(DataConfig(path=events, items=put(tmp_path, name, FORMATS[name])))
    assert found.items.title == ("Tea", "Milk")


def test_what_does_not_fit_is_said_in_one_line(tmp_path):
    orders, titles = put(tmp_path, "orders.csv", ORDERS), put(tmp_path, "titles.csv", TITLES)
    other = put(tmp_path, "other.csv", "id,name\n1,a\n2,b\n")
    dull = put(tmp_path, "dull.csv", "sku,colour\nK-1,grey\n")
    both = put(tmp_path, "both.csv", "customer,client,product\na,b,K-1\n")
    for config, match in {
        DataConfig(path=orders, items=other): r"none of its items \('1', '2'\) has an event",
        DataConfig(path=orders, items=dull): r"which column is the title\? There are: sku, colour",
        DataConfig(path=orders, items=tmp_path / "no.csv"): "no file of items",
        DataConfig(path=orders, items=titles, items_id="x"): "no column 'x'; there are: sku, name",
        DataConfig(path=both): r"the user, customer or client\? .* --data\.user COLUMN",
        DataConfig(path=orders, user="cust"): "no column 'cust'; there are: customer",
    }.items():
        with pytest.raises(DataError, match=match) as refusal:
            read(config)
        assert "\n" not in str(refusal.value)
    assert read(DataConfig(path=both, user="client")).interactions.users == ("b",)
