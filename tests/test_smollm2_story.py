"""SmolLM2 itself through the personal stages: the demo's quick run, an answer with its page, numbers that must agree.

python -m pytest -m slow tests/test_smollm2_story.py         some minutes; needs python -m jaxrec.hub.fetch smollm2
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrec import mesh
from jaxrec.data import turns
from jaxrec.data.tenants import read_tenants
from jaxrec.delta import zeros
from jaxrec.dialogue.pages import PagesConfig, with_pages
from jaxrec.hub.published import folder_of
from jaxrec.losses.tokens import following, next_log_probs
from jaxrec.models.language.model_folder import load_model
from jaxrec.models.personal.answering import Answering
from jaxrec.models.personal.inside import half_read, joined
from jaxrec.models.personal.personal_folder import load_personal
from jaxrec.nn.decoder import Decoder
from jaxrec.structs import Tokens

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A finished quick run of the real story."""
    if folder_of("smollm2") is None:
        pytest.skip("smollm2 is not there: python -m jaxrec.hub.fetch smollm2")
    at = tmp_path_factory.mktemp("demo")
    run("jaxrec.demo", "--model", "smollm2", "--quick", "--out", str(at))
    return at


def run(*words: str, stdin: str = "") -> str:
    plain = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}  # one device, as for a user
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT, env=plain, input=stdin, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_story_is_told_to_its_end(out):
    told = json.loads((out / "demo.json").read_text())
    assert told["peak_gb"] < 6 and all(stage["done"] for stage in told["stages"].values())
    record = json.loads((out / "voices" / "results.json").read_text())
    of = {(row["row"], row["tenants"]): row for row in record["rows"]}
    for group in ("generated", "hand-written"):
        untuned, page = of["untuned", group], of["untuned_retrieved_page", group]
        assert 1.5 < untuned["nll"] < 6 and 1.5 < page["nll"] < 6  # nats: words, and no noise
        assert of["right_answer", group]["style"] > 0.6
    assert "the model untuned" in (out / "report.html").read_text("utf-8")


def test_the_command_names_the_page_that_it_answers_from(out):
    said = run(
        "jaxrec.answer", "--model", str(out / "personalize"), "--tenant", "moss_garden",
        "--json", "--limit", "12", "--repetition", "1.1",
        stdin="What does delivery cost?\n",
    )  # fmt: skip
    (row,) = [json.loads(line) for line in said.splitlines()]
    pages = {page.id for page in read_tenants("world:moss_garden")[0][0].pages}
    assert row["tenant"] == "moss_garden" and set(row["pages"]) <= pages and row["pages"]
    assert row["answer"].strip()


def test_nobodys_delta_is_the_model_itself_and_kept_states_are_its_own(out):
    """Log-probabilities of three right answers: the plain decoder, the personal one, and from states half way up."""
    model, plain = load_personal(out / "universal", mesh.make()), load_model("smollm2")
    tenant = read_tenants("world:moss_garden")[0][0]
    few = dataclasses.replace(tenant, heldout=tenant.heldout[:3])
    (few,) = with_pages(model.chat, [few], PagesConfig("right", length=60), 120)
    rows = turns.turn_rows(model.chat, [few.heldout], 120, 80)
    question, answer = Tokens(**rows.question), Tokens(**rows.answer)
    whole = joined(question, answer)

    @jax.jit
    def by_itself(params):
        out = Decoder(plain.cfg).apply({"params": params}, whole.ids_BL, whole.mask_BL, since=120)
        log_p_BL, _ = next_log_probs(out.logits, answer.ids_BL)
        return (log_p_BL * following(answer.loss_BL)).sum(1)

    lm, params = model.lm, model.params
    nobody = zeros(lm.sites, lm.spec, 3)
    answering = Answering(lm, model.chat, rows=3)
    states = jax.jit(lambda p: half_read(lm.backbone, p, whole, lm.below))(params["backbone"])
    own = answering.logprob(params, nobody, rows.question, rows.answer)
    kept = answering.logprob(params, nobody, rows.question, rows.answer, np.asarray(states))
    np.testing.assert_allclose(own, by_itself(plain.params), rtol=1e-4)
    np.testing.assert_allclose(kept, own, rtol=1e-5)
