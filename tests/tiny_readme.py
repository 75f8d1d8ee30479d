"""README's three ways in, as code, and a small world in which they run: the files and folders that they name."""

import csv
import json
import re
from pathlib import Path

import tiny_assistant
import tiny_models

ROOT = Path(__file__).resolve().parent.parent
BASE = "Qwen/Qwen2.5-0.5B-Instruct"


def snippets() -> dict[str, str]:
    """The Python code between README's markers, by the markers' names."""
    text = (ROOT / "README.md").read_text()
    parts = re.findall(r"<!-- snippet:(\w+) -->(.*?)<!-- /snippet -->", text, re.DOTALL)
    return {
        name: "".join(re.findall(r"```python\n(.*?)```", part, re.DOTALL)) for name, part in parts
    }


def make_world(name: str, folder: Path) -> None:
    """What the snippet of this name reads, in a folder that it is run in."""
    {"tune": _chats, "tenants": _tenants, "shop": _shop}[name](folder)


def _chats(folder: Path) -> None:
    tiny_models.model("qwen2", folder / BASE)
    row = lambda i: {
        "messages": [
            {"role": "user", "content": f"When do you open on day {i}?"},
            {"role": "assistant", "content": f"Hello! We open at {i}."},
        ]
    }
    for file, days in (("chats.jsonl", range(12)), ("held_out.jsonl", range(12, 14))):
        (folder / file).write_text("".join(json.dumps(row(day)) + "\n" for day in days))


def _tenants(folder: Path) -> None:
    tiny_assistant.make(folder / "runs" / "demo" / "universal")
    tiny_models.tenant(folder / "shops" / "corner_bakery")


def _shop(folder: Path) -> None:
    """Thirty people who each like one of three kinds of things."""
    kinds = {
        "Coffee": ("Coffee mug", "Arabica beans", "Hand mill"),
        "Garden": ("Watering can", "Dill seeds", "Pruner"),
        "Dogs": ("Lead", "Puppy food", "Ball"),
    }
    items = [
        (f"A{i}{j}", title, kind)
        for i, (kind, titles) in enumerate(kinds.items())
        for j, title in enumerate(titles)
    ]
    orders = [
        (f"U{person}", f"A{person % 3}{(person + j) % 3}", f"2024-03-{j + 1:02d}")
        for person in range(30)
        for j in range(2 + person % 2)
    ]
    for file, header, rows in (
        ("orders.csv", ("customer", "product", "when"), orders),
        ("titles.csv", ("product", "title", "category"), items),
    ):
        with (folder / file).open("w", newline="") as out:
            csv.writer(out).writerows([header, *rows])
