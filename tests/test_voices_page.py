"""The page of a demo run: everything is on it, nothing comes from elsewhere, and hostile text stays text.

python -m pytest -q tests/test_voices_page.py
"""

import itertools
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jaxrec.config import RunError
from jaxrec.eval import line_chart, voices_page
from jaxrec.eval.line_chart import Series, chart
from jaxrec.world.style import VALUES

HOSTILE = "<script>alert('p')</script> & \"quoted\" </dd></table><img src=x onerror=alert(1)>"
CHECKS = ("formality", "length", "greeting")
STYLE = {"formality": "casual", "length": "short", "register": "plain"}
VOID = {"meta", "path", "circle", "br", "hr", "img", "link", "input"}


@pytest.fixture
def folder(tmp_path) -> Path:
    """The files of a finished demo with two unseen businesses, one by hand and one generated."""

    def write(name: str, content) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))

    rows = [
        {
            "row": name,
            "tenants": group,
            "nll": None if name in ("nearest", "right_answer") else 1.0 + 0.25 * i,
            "style": 0.9 - 0.1 * i,
            "facts": 0.5 if group == "generated" else None,
            "f1": 0.4,
            "n": 8,
        }
        for group in ("generated", "hand-written")
        for i, name in enumerate(voices_page.ROWS)
    ]
    tenants = (("one", "Oak & Ash"), ("two", HOSTILE))
    checks = [
        {"tenant": key, "name": name, "row": row, **dict.fromkeys(CHECKS, share)}
        for key, name in tenants
        for row, share in (("own_p_gradient", 0.875), ("shuffled_p", 0.25))
    ]
    samples = [
        {"tenant": name, "question": HOSTILE, **dict.fromkeys(voices_page.ROWS, HOSTILE)}
        for _, name in tenants
    ]
    answers = [
        {"tenant": k, "name": n, "style": STYLE, "answer": a, "met": 8, "checks": 9}
        for (k, n), a in zip(tenants, (HOSTILE, " \n"), strict=True)
    ]
    hardware = {"cpu": "a <fast> one", "cores": 2, "memory_gb": 8.0, "accelerators": []}
    results = {"rows": rows, "checks": checks, "samples": samples, "hardware": hardware}
    results |= {"seed": 0, "commit": "0123456789abcdef+changes", "versions": {"python": "3.12"}}
    write("voices/results.json", results)
    write("voices/same_question.json", {"questions": [{"question": HOSTILE, "answers": answers}]})
    curve = [{"step": s, "kind": "train", "nll": 7 / s} for s in range(10, 50, 10)]
    curve.append({"step": 40, "kind": "eval", "bits_per_byte": 1.25})
    for stage in ("pretrain", "personalize"):
        write(f"{stage}/metrics.jsonl", "".join(json.dumps(row) + "\n" for row in curve))
        write(f"{stage}/config.json", {"loop": {"seed": 7}, "examples": 30, "out": HOSTILE})
        write(f"{stage}/environment.json", {"commit": "0123456789abcdef+", "devices": HOSTILE})
    ran = {name: {"about": f"about {name}", "seconds": 61.2} for name in ("pretrain", "voices")}
    ran["personalize"] = {"about": HOSTILE, "seconds": 1.0}
    write("demo.json", {"quick": False, "peak_gb": 1.234, "stages": ran})
    return tmp_path


class Reading(HTMLParser):
    """Tags with their attributes, the text, and the tags that were never closed."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text, self.open = "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def named(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(folder: Path) -> str:
    return voices_page.main(voices_page.PageConfig(run=str(folder))).read_text("utf-8")


def test_every_section_and_number_is_there(folder):
    reading = Reading(page_of(folder))
    assert reading.open == []
    headings = {attrs["aria-labelledby"] for attrs in reading.named("section")}
    ids = [attrs["id"] for _, attrs in reading.tags if "id" in attrs]
    assert headings <= set(ids) and len(ids) == len(set(ids))
    links = {attrs["href"] for attrs in reading.named("a")}
    assert links == {f"#{attrs['id']}" for attrs in reading.named("section")}
    assert len(links) == 7
    for label, _ in voices_page.ROWS.values():
        assert label in reading.text
    for said in (
        "90%",
        "1.25",
        "88",
        "25",
        "1 min 01 s",
        "1.23 GB",
        "0, 7",
        "0123456789ab with changes",
    ):
        assert said in reading.text, said
    assert "30 example conversations" in reading.text
    assert "(no words)" in reading.text  # an empty answer is said, not shown as a gap


def test_nothing_comes_from_elsewhere(folder):
    page = page_of(folder)
    reading = Reading(page)
    assert not {tag for tag, _ in reading.tags} & {"script", "link", "img", "iframe", "object"}
    for tag, attrs in reading.tags:
        for name, value in attrs.items():
            assert not name.startswith("on") and name != "src", (tag, name)
            assert name != "href" or value.startswith("#"), (tag, value)
    assert "url(" not in page and "@import" not in page and "http://" not in page
    policy = next(a for a in reading.named("meta") if a.get("http-equiv"))
    assert policy["content"].startswith("default-src 'none'")


def test_hostile_text_stays_text(folder):
    page = page_of(folder)
    assert "<script" not in page and "<img" not in page
    # Name, question, answers and a stage's description, each as it was written.
    assert Reading(page).text.count(HOSTILE) > 12


def test_plots_and_tables_can_be_heard(folder):
    reading = Reading(page_of(folder))
    ids = {attrs.get("id") for _, attrs in reading.tags}
    drawings = reading.named("svg")
    assert len(drawings) == 3  # two of pretrain, one of personalize; the other stages left no curve
    for drawing in drawings:
        assert drawing["role"] == "img" and set(drawing["aria-labelledby"].split()) <= ids
    assert len(reading.named("caption")) == len(reading.named("table")) == 4
    assert all(attrs.get("scope") for attrs in reading.named("th"))
    assert "training: from 0.7 at step 10 to 0.175 at step 40" in reading.text
    assert "held out: 1.25 at step 40" in reading.text


def test_quick_runs_are_marked(folder):
    assert "mean nothing" not in page_of(folder)
    told = json.loads((folder / "demo.json").read_text())
    (folder / "demo.json").write_text(json.dumps({**told, "quick": True}))
    assert "Its figures mean nothing" in page_of(folder)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"style": 0.9, "nll": 1.0}, "carries their voice"),
        ({"style": 0.9, "nll": 9.0}, "wins in style alone"),
        ({"style": 0.1, "nll": 1.0}, "wins in likelihood alone"),
        ({"style": 0.1, "nll": 9.0}, "does not beat the controls"),
    ],
)
def test_the_verdict_follows_the_numbers(folder, own, said):
    path = folder / "voices" / "results.json"
    record = json.loads(path.read_text())
    for row in record["rows"]:
        if row["row"] == "own_p_gradient":
            row |= own
    path.write_text(json.dumps(record))
    page = " ".join(Reading(page_of(folder)).text.split())
    verdicts = ("carries their voice", "alone", "does not beat")
    assert said in page
    assert sum(page.count(v) for v in verdicts) == 2  # one a group, and no other


def test_an_unfinished_run_is_refused(folder):
    (folder / "voices" / "results.json").unlink()
    with pytest.raises(RunError, match=r"results\.json.*finish"):
        page_of(folder)
    (folder / "voices" / "results.json").write_text('{"rows": [')
    with pytest.raises(RunError, match="not whole"):
        page_of(folder)
    assert not (folder / "report.html").exists()


def test_ticks_cover_the_range_in_round_steps():
    for low, high in ((0, 7.2), (0.91, 1.31), (0, 400), (-3, -1), (2, 2), (0, 0), (1e-6, 3e-6)):
        marks = line_chart.ticks(low, high)
        assert marks[0] <= low and marks[-1] >= high
        gaps = [b - a for a, b in itertools.pairwise(marks)]
        assert 1 <= len(gaps) <= 6 and max(gaps) == pytest.approx(min(gaps))


def test_a_chart_keeps_its_points_inside_and_in_order():
    falling = Series("loss", tuple((s, 7 / s) for s in range(1, 9)), dots=True)
    drawn = chart("t", "u", [falling, Series("absent", ())])
    (line,) = drawn.lines
    xs, ys = zip(*line.dots, strict=True)
    assert list(xs) == sorted(xs) and list(ys) == sorted(ys)  # SVG's y grows downward: a fall
    assert all(0 <= x <= line_chart.WIDTH for x in xs)
    assert all(0 <= y <= line_chart.HEIGHT for y in ys)
    assert line.path.count("L") == 7
    assert chart("t", "u", [Series("absent", ())]) is None
    assert len(chart("t", "u", [Series("one", ((10, 2.5),))]).lines[0].dots) == 1


def test_checks_of_the_style_have_a_column_each(folder):
    """What the page calls a check is what the record has, whatever the style's attributes are."""
    heat = voices_page.heat(json.loads((folder / "voices/results.json").read_text())["checks"])
    assert heat["columns"] == list(CHECKS) and set(CHECKS) <= set(VALUES)
    assert heat["mean"] == {"own_p_gradient": [0.875] * 3, "shuffled_p": [0.25] * 3}
