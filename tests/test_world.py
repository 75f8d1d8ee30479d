"""The world's own report runs, prints its parts, and is quick to ask for help."""

from jaxrec.world.__main__ import Config, main


def test_the_report_has_all_its_parts(capsys):
    main(Config(tenants=20, examples=1))
    text = capsys.readouterr().out
    for part in (
        "TENANTS",
        "FLOORS AND ORACLES",
        "N-GRAM OVERLAP",
        "INSTRUCTIONS",
        "SHOPS",
        "RECALL@10",
    ):
        assert f"\n{part}" in f"\n{text}"
    for row in (
        "generated, held out",
        "by hand, held out",
        "nearest",
        "popularity",
        "kestrel_travel",
    ):
        assert row in text
