"""Customer support by its specification's names: its five examples, what they leave behind, and what they refuse."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_models

import jaxrec.support as support
from jaxrec import mesh
from jaxrec.config import RunError
from jaxrec.data.text import pad
from jaxrec.dialogue.prompts import PromptError
from jaxrec.support import (
    AdapterModel,
    Config,
    DataConfig,
    DataLoader,
    InferencePipeline,
    LoRAConfig,
    LoRAModel,
    ModelConfig,
    PEFTModel,
    PromptConfig,
    TrainingConfig,
    TrainingPipeline,
)
from jaxrec.support.training import DataError


@pytest.fixture(scope="module", autouse=True)
def quickly():
    """Compiling is what takes the time here: for one device, without optimisation."""
    before, make = jax.config.read("jax_disable_most_optimizations"), mesh.make
    jax.config.update("jax_disable_most_optimizations", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh, "make", lambda cfg, _=None: make(cfg, jax.devices()[:1]))
        yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A tiny chat model of random weights, with ChatML and room for long prompts."""
    folder = tiny_models.model("qwen2", tmp_path_factory.mktemp("model"), max_positions=2048)
    return Config(
        lora=LoRAConfig(rank=2, target_modules=("q", "v")),
        model=ModelConfig(str(folder), max_new_tokens=5),
        prompt=PromptConfig("Mill", tokens=1020),
        training=TrainingConfig(steps=4, rows=4, evaluate_every=2, out=str(folder.parent / "run"), progress=False),
        data=DataConfig(length=64),
    )  # fmt: skip


@pytest.fixture(scope="module")
def pipeline(config):
    return InferencePipeline(LoRAModel(config), config)


# ------------------------------------------------------------------- the five examples of the specification


def test_1_few_shot(pipeline):
    pipeline.add_few_shot_example(
        "How do I change my password?", "Go to Settings > Security > Change Password"
    )
    response = pipeline.generate_response("How do I reset my account?", strategy="few_shot")
    assert isinstance(response, str)
    made = pipeline.respond(["How do I reset my account?"], "few_shot")[0]
    assert made.text == response and made.prompt.examples[0].answer.startswith("Go to Settings")
    assert "You write for Mill." in made.prompt.messages[0][1]


def test_2_chain_of_thought_shows_the_answer_alone(pipeline, monkeypatch):
    thought = "It is locked.\nFirst unlock it.\nAnswer: Ask us to unlock it."
    monkeypatch.setattr(pipeline.model, "generate", lambda prompts: [thought] * len(prompts))
    asks = "My account is locked and I can't reset password"
    assert pipeline.generate_response(asks, strategy="cot") == "Ask us to unlock it."
    assert pipeline.respond([asks], "cot")[0].steps == "It is locked.\nFirst unlock it."
    assert pipeline.generate_response(asks) == thought


def test_3_a_role_with_the_users_context(pipeline):
    pipeline.set_role("technical_support")
    user_context = {
        "account_type": "premium",
        "join_date": "2023-01-15",
        "previous_issues": "authentication failures",
    }
    made = pipeline.respond(["API connection timeout"], "role_context", user_context)[0]
    response = pipeline.generate_response(
        "API connection timeout", strategy="role_context", user_context=user_context
    )
    system = made.prompt.messages[0][1]
    assert response == made.text and "You are a support technician" in system
    assert "- previous_issues: authentication failures" in system


def test_4_all_strategies_together(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline.model, "generate", lambda prompts: ["so"] * len(prompts))
    pipeline.add_few_shot_example("How do I log in?", "By the button.")
    made = pipeline.respond(["Complex technical issue"], "combined", {"plan": "free"})[0]
    assert {"examples/1", "steps/1", "context/1", "role technician"} <= set(made.prompt.templates)


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """Example 5: (the trained model, what training told, the folder that it was saved in)."""
    model = LoRAModel(config)
    before = model.generate(_ask(model))
    loader, trainer = DataLoader(config), TrainingPipeline(model, config)
    chat = model.tuned.chat
    rows = pad([chat.example([("user", "day?"), ("assistant", f"at {i}.")]) for i in range(8)])
    train = loader.create_dataloader(rows["ids_BL"].tolist(), rows["mask_BL"].astype(int))
    val = loader.create_dataloader(rows["ids_BL"][:3], rows["mask_BL"][:3].astype(int))
    told = trainer.train(train, val)
    folder = tmp_path_factory.mktemp("checkpoints") / "my_model"
    model.save_model(folder)
    return model, told, folder, before


def _ask(model):
    return [InferencePipeline(model).prompting().prompt("When do you open?")]


@pytest.mark.slow
def test_5_fine_tuning(trained, config):
    model, told, folder, before = trained
    assert told["held_nll"] < told["held_nll_before"] and told["steps"] == 4
    again = LoRAModel(
        dataclasses.replace(config, model=dataclasses.replace(config.model, name=str(folder)))
    )
    assert again.generate(_ask(again)) == model.generate(_ask(model)) != before
    # Nothing is left to do of a run that is finished, and it says the same.
    resumed = TrainingPipeline(LoRAModel(config)).train(*_rows(config))
    assert resumed["held_nll"] == pytest.approx(told["held_nll"], rel=1e-4)


def _rows(config):
    chat = LoRAModel(config).tuned.chat
    rows = pad([chat.example([("user", "day?"), ("assistant", f"at {i}.")]) for i in range(8)])
    make = DataLoader(config).create_dataloader
    return make(rows["ids_BL"], rows["mask_BL"] * 1), make(
        rows["ids_BL"][:3], rows["mask_BL"][:3] * 1
    )


# ------------------------------------------------------------------------------------------ the rest


@pytest.mark.slow
def test_many_at_once_are_the_same_as_one_by_one(pipeline):
    asks = ["When?", "Where do you open?", "Why is that?"]
    said = pipeline.generate_batch(asks)
    assert said == [pipeline.generate_response(one) for one in asks]
    found = pipeline.evaluate(asks, said, metrics=("rouge1", "rougeL"))
    assert found["rouge1"] == found["rougeL"] == 1.0


def test_measures(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline.model, "generate", lambda prompts: ["at nine", "at ten"])
    longer = lambda said, right: float(len(said) > len(right))
    longer.__name__ = "longer"
    metrics = ("similarity", longer)
    found = pipeline.evaluate(["a?", "b?"], ["at nine", "never"], metrics=metrics)
    assert found["longer"] == 0.5
    assert found["similarity"] == pytest.approx(0.5, abs=0.01) and found["prompt_tokens"] > 50
    with pytest.raises(PromptError, match="2 questions and 1 references"):
        pipeline.evaluate(["a?", "b?"], ["x"])


def test_shares_of_what_trains(config):
    lora, adapter = LoRAModel(config), AdapterModel(config)
    assert 0 < lora.trainable_share() < adapter.trainable_share() < 1
    assert PEFTModel(config, "full").trainable_share() == 1
    assert PEFTModel(config, "ia3").trainable_share() < lora.trainable_share()


def test_texts_become_rows(config, tmp_path):
    chats = [{"prompt": f"{i}?", "completion": f"at {i}."} for i in range(20)]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    train, val, test = DataLoader(config).load(tmp_path / "chats.jsonl")
    sizes = [len(part.tokens.ids_BL) for part in (train, val, test)]
    assert sizes == [16, 2, 2] and len(train) == 4 and next(iter(train)).ids_BL.shape[0] == 4
    learned = train.tokens.loss_BL.sum() / train.tokens.mask_BL.sum()
    assert 0 < learned < 0.5  # the answers alone
    few = DataConfig(validation=0.6, test=0.3)
    with pytest.raises(DataError, match="too few"):
        (tmp_path / "two.jsonl").write_text("\n".join(map(json.dumps, chats[:2])))
        DataLoader(dataclasses.replace(config, data=few)).load(tmp_path / "two.jsonl")


IDS, MASK = [[1, 2, 3], [4, 5, 0]], [[1, 1, 1], [1, 1, 0]]


def test_labels_say_what_is_learned(config):
    made = DataLoader(config).create_dataloader(IDS, MASK, [[-100, -100, 3], [-100, 5, -100]])
    np.testing.assert_array_equal(made.tokens.loss_BL, [[0, 0, 1], [0, 1, 0]])
    whole = DataLoader(config).create_dataloader(IDS, MASK)
    np.testing.assert_array_equal(whole.tokens.loss_BL, [[0, 1, 1], [0, 1, 0]])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((IDS, [[1, 1]]), "differ in shape"),
        (([[1], [2, 3]], MASK), "no array of rows|whole numbers"),
        (([[0.5, 1.0]], [[1, 1]]), "whole numbers"),
        ((IDS, [[1, 2, 1], [1, 1, 0]]), "attention_mask holds 0 and 1"),
        ((IDS, [[1, 0, 0], [1, 0, 0]]), "no token to learn"),
        ((IDS, MASK, [[2, 3, -100], [5, -100, -100]]), "they are shifted here"),
    ],
)
def test_rows_that_teach_nothing(config, given, says):
    with pytest.raises(DataError, match=says):
        DataLoader(config).create_dataloader(*given)


def test_what_cannot_be_is_said_in_words(config, pipeline, tmp_path):
    with pytest.raises(DataError, match="token 999 is none of the model's"):
        TrainingPipeline(LoRAModel(config)).train(
            DataLoader(config).create_dataloader([[1, 999]], [[1, 1]])
        )
    away = dataclasses.replace(config, model=ModelConfig(str(tmp_path / "away")))
    with pytest.raises(RunError, match="away"):
        InferencePipeline(LoRAModel(away)).generate_response("Hi?")
    with pytest.raises(PromptError, match="did you mean 'sales'"):
        pipeline.set_role("sale")
    with pytest.raises(PromptError, match="there is no strategy 'fewshot'"):
        pipeline.generate_response("Hi?", strategy="fewshot")
    (tmp_path / "rows.jsonl").write_text('{"question": "a"}')
    with pytest.raises(PromptError, match="rows of question and answer"):
        pipeline.read_few_shot_examples(tmp_path / "rows.jsonl")
    with pytest.raises(RunError, match="leave some to train on"):
        DataConfig(validation=0.5, test=0.5)
    with pytest.raises(RunError, match="holds the base itself"):
        pipeline.model.save_model(config.model.name)


def test_every_name_of_the_specification_is_in_the_table(config):
    table = (Path(__file__).parent.parent / "docs" / "support.md").read_text()
    missing = [name for name in support.__all__ if f"`{name}" not in table]
    assert not missing
