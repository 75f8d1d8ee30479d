"""A judge: trained by a script on a CSV of any headers, kept, asked about people that it knows and somebody new."""

import dataclasses
import json

import numpy as np
import pytest

from jaxrec import judge as command
from jaxrec.config import ConfigError
from jaxrec.data.judgements import JudgementError, JudgementsConfig, read, with_columns
from jaxrec.judge import AskConfig
from jaxrec.models.personal.item_labels import ItemConfig
from jaxrec.models.personal.judgement import PersonConfig
from jaxrec.models.personal.profile import ProfileFitConfig
from jaxrec.recommenders import judge as judges
from jaxrec.recommenders.judge import Judge, JudgeConfig, JudgeError
from jaxrec.train import judgements as script
from jaxrec.train.judgements import JudgementsTraining
from jaxrec.training.optimizer import OptConfig

SMALL = JudgeConfig(
    item=ItemConfig(components=4, width=4, most_steps=4, parts=2),
    personal=PersonConfig(
        8, 2, 2, width=16, queries=2, most=12, batch=16, steps=80, opt=OptConfig(lr=1e-2)
    ),
    fit=ProfileFitConfig(steps=10),
    examples=12,
    folds=3,
)


def vectors(texts: list[str]) -> np.ndarray:
    """Vectors that know nothing of the text, the same for the same one."""
    rows = [np.random.default_rng(sum(map(ord, text))).normal(size=6) for text in texts]
    return np.array(rows, np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Half of 36 people say yes to nearly everything, the others no; under headers of their own, without items."""
    at = tmp_path_factory.mktemp("judge")
    rng = np.random.default_rng(0)
    lines = ["rater;comment;Grade"]
    for person in range(36):
        for item in rng.permutation(50)[:30]:
            yes = rng.random() < (0.95 if person % 2 else 0.05)
            lines.append(f"P{person};comment number {item};{'yes' if yes else 'no'}")
    (at / "votes.csv").write_text("\n".join([*lines, "P1;;yes", "P1;comment"]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judges, "_vectors", lambda parts, cfg: vectors([text for (text,) in parts]))
        patch.setattr(Judge, "_encode", staticmethod(vectors))
        cfg = JudgementsTraining(
            (str(at / "votes.csv"),), judge=SMALL, validate=False, out=str(at / "out")
        )
        yield at, cfg, script.main(cfg)


def test_a_persons_label_is_foreseen_and_the_average_persons_is_not(trained):
    judge = Judge.load(trained[2])
    assert judge.labels == ("no", "yes") and len(judge.people) == 36
    text = ["comment number 1000"]
    yes = {name: judge.predict(text, judge.person(name))[0, 1] for name in ("P1", "P2")}
    assert yes["P1"] > 0.8 and yes["P2"] < 0.2
    assert 0.3 < judge.predict(text, judge.average)[0, 1] < 0.7
    assert 0.3 < judge.predict(text)[0, 1] < 0.7
    np.testing.assert_allclose(judge.predict(text).sum(1), 1, atol=1e-5)


def test_somebody_new_is_known_by_examples(trained):
    judge = Judge.load(trained[2])
    texts = [f"comment number {n}" for n in range(10)]
    for gradient in (False, True):
        p_E = judge.onboard(texts, ["yes"] * 10, gradient=gradient)
        assert judge.predict(["anything"], p_E)[0, 1] > 0.75
    np.testing.assert_array_equal(judge.onboard([], []), judge.average)
    with pytest.raises(JudgeError, match="no label 'maybe': there are no, yes"):
        judge.onboard(["a"], ["maybe"])
    with pytest.raises(JudgeError, match="did you mean 'P1'"):
        judge.person("P1x")
    with pytest.raises(JudgeError, match="texts of 1 parts, not of 2"):
        judge.predict([("a post", "a reply")])


def test_the_script_says_what_it_guessed_and_what_p_is_worth(trained, capsys, monkeypatch):
    found = {}
    monkeypatch.setattr(Judge, "fit", classmethod(lambda cls, *a, **k: Judge.load(trained[2])))
    monkeypatch.setattr(script, "show", lambda validation, cfg: found.update(v=validation))
    script.main(dataclasses.replace(trained[1], validate=True))
    said = capsys.readouterr().out
    assert "person = 'rater', label = 'Grade', text = 'comment'" in said
    assert "they are told apart by their text" in said
    assert "skipped 2: person, item, text or label is empty" in said
    accuracy = found["v"].accuracy
    assert accuracy["own p"] > 0.85 > 0.7 > accuracy["pooled"] and accuracy["mean p"] < 0.7


def test_the_command_answers_in_a_table_or_json(trained, capsys):
    at, _, model = trained
    (at / "mine.csv").write_text("text,label\nfirst,yes\nsecond,yes\nthird,no\n")
    rows = command.main(AskConfig(str(at / "out"), "P1", text=("a new one",)))
    said = capsys.readouterr().out
    assert "average person" in said and "text alone" in said and "-> yes" in said
    assert set(rows[0]) == {"text", "P1", "average person", "text alone"}
    command.main(AskConfig(str(model), examples=str(at / "mine.csv"), text=("x",), json=True))
    assert "new, 3 examples" in json.loads(capsys.readouterr().out)
    command.main(AskConfig(str(model)))
    assert "labels: no, yes" in capsys.readouterr().out


def test_clear_errors(trained, tmp_path):
    with pytest.raises(ConfigError, match="which judgements"):
        script.main(JudgementsTraining())
    with pytest.raises(ConfigError, match="which model"):
        command.main(AskConfig())
    with pytest.raises(ConfigError, match="one of the two"):
        command.main(AskConfig("x", "P1", "y.csv"))
    (tmp_path / "odd.csv").write_text("a,b,c\n1,2,3\n")
    with pytest.raises(JudgementError, match="which column is the person"):
        with_columns(JudgementsConfig((str(tmp_path / "odd.csv"),)))
    with pytest.raises(JudgementError, match="which column is the label"):
        with_columns(
            JudgementsConfig((str(tmp_path / "odd.csv"),), label="d", person="a", text=("b",))
        )
    (tmp_path / "few.csv").write_text("person,text,label\na,x,1\nb,y,2\n")
    few, _ = with_columns(JudgementsConfig((str(tmp_path / "few.csv"),)))
    assert few.item == "" and Judge.validate(read(few), SMALL) is None
