"""Train a judge on any people's judgements: who gave which label to which text.

    python -m train.judgements --data my.csv --out runs/judge
    python -m train.judgements --data my.csv --person worker --text comment --label grade --out runs/judge
    python -m jaxrec.judge --model runs/judge --person P7 --text "a new text"

Columns are told by their names (person, item, text, label and what else people call them), or by flags; a file without
a column of items tells them apart by their text. First a judge of four fifths of the people is asked for the others'
judgements of texts that it has not seen: own p beside the pooled model and the mean p. Then all are learned from.
OUT/model is what `Judge.load` and `jaxrec.judge` read.
"""

import dataclasses
from pathlib import Path

from jaxrec import config, processes, results
from jaxrec.config import ConfigError
from jaxrec.data.judgements import JudgementsConfig, read, with_columns
from jaxrec.recommenders.judge import Judge, JudgeConfig, Validation
from jaxrec.results import print_table


@dataclasses.dataclass(frozen=True)
class JudgementsTraining:
    """data: CSV (or .tsv, LeWiDi's .json) files. person, item, text, label, language: their columns, where the names
    don't tell; several text columns are the parts of one text. validate: print what unseen people's p is worth."""

    data: tuple[str, ...] = ()
    person: str = JudgementsConfig.person
    item: str = JudgementsConfig.item
    text: tuple[str, ...] = JudgementsConfig.text
    label: str = JudgementsConfig.label
    language: str = ""
    judge: JudgeConfig = JudgeConfig()
    validate: bool = True
    out: str = "runs/judge"


def main(cfg: JudgementsTraining) -> Path:
    """Trains, prints the validation, gives the folder of the model. Raises ConfigError without data, JudgementError."""
    if not cfg.data:
        raise ConfigError(
            "which judgements? --data FILE: a CSV with a person, a text and a label in each row"
        )
    processes.keep_programs()
    columns, said = with_columns(
        JudgementsConfig(cfg.data, cfg.person, cfg.item, cfg.text, cfg.label, cfg.language)
    )
    data = read(columns)
    print("\n".join([*said, data.summary(), "labels: " + ", ".join(data.labels)]), flush=True)
    if cfg.validate:
        show(Judge.validate(data, cfg.judge), cfg.judge)
    model = Path(cfg.out) / "model"
    Judge.fit(data, cfg.judge, out=Path(cfg.out) / "fit", progress=True).save(model)
    print(f"learned from {len(data.people):,} people")
    results.conclude([model], ("jaxrec", "judge", "--model", cfg.out))
    return model


def show(found: Validation | None, cfg: JudgeConfig) -> None:
    """Prints the validation, or why there is none."""
    if found is None:
        print("no validation: too few people or texts to hold a fifth of both back")
        return
    print(
        f"\nunseen people on unseen texts ({found.people} people, {found.judgements:,} judgements, up to "
        f"{cfg.examples} examples each)"
    )
    rows = [
        {"by": way, "accuracy": found.accuracy[way], "nats": found.nats[way]}
        for way in found.accuracy
    ]
    print_table(rows)
    if found.nats["own p"] >= min(found.nats["pooled"], found.nats["mean p"]):
        print(
            "own p foresees no better than what is the same for everybody: these people judge alike,"
        )
        print("or there are too few judgements to tell")


if __name__ == "__main__":
    config.run(main, JudgementsTraining, __doc__)
