"""Decoding: equal to the model run anew for each token, whatever the batch, the chunks and the way it ends."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import delta as deltas
from jaxrec import hub
from jaxrec.delta import DeltaConfig
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.nn.generate import backbone_generator
from jaxrec.nn.sampling import sampling

CFG = DecoderConfig(
    vocab=53, d_model=32, layers=2, heads=4, groups=2, head_dim=8, d_ff=48, max_positions=96,
    init_std=0.3, cuts=(1,),
)  # fmt: skip
PROMPTS = [[1, 2, 3], [4, 9] * 11, [7, 8]]  # with chunks of 16 the second takes two
NEW = [5, 12, 9]


def text_of(ids: list[int]) -> str:
    return "".join(chr(ord("a") + i % 26) for i in ids)


@pytest.fixture(scope="module")
def params():
    return Decoder(CFG).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]


@pytest.fixture(scope="module")
def generator():
    return backbone_generator(CFG, chunk=16)


@pytest.fixture(scope="module")
def anew(params):
    """Greedy decoding by the whole forward pass for each token (padded to one width: one program)."""
    run = jax.jit(
        lambda ids, mask, d: (
            Decoder(CFG).apply({"params": params}, ids, mask, delta=d, logits="last").logits
        )
    )

    def decode(prompt, new, delta=None):
        ids = list(prompt)
        for _ in range(new):
            row, mask = (jnp.array(x) for x in hub.pad([ids], 48))
            ids.append(int(run(row, mask, delta)[0, 0].argmax()))
        return ids[len(prompt) :]

    return decode


def test_greedy_ragged_rows_equal_the_model_run_anew(params, generator, anew):
    out = generator((params, None), PROMPTS, sampling(3, max_new=NEW))
    assert out.ids == [anew(p, n) for p, n in zip(PROMPTS, NEW, strict=True)]
    assert out.reason == ["length"] * 3 and out.texts is None
    before = generator._advance._cache_size(), generator._read._cache_size()
    assert before == (1, 2)  # a chunk with and without scores before it
    generator((params, None), [p[::-1] for p in PROMPTS], sampling(3, max_new=[12, 2, 3]))
    assert (generator._advance._cache_size(), generator._read._cache_size()) == before
    short = generator(
        (params, None), [p[:3] for p in PROMPTS], sampling(3, max_new=12), at_least=22
    )
    assert (generator._advance._cache_size(), generator._read._cache_size()) == before
    assert short.ids[0] == anew(PROMPTS[0], 12)


def test_a_delta_per_row_with_a_soft_prompt(params, generator, anew):
    cfg = DeltaConfig(lora_rank=2, prompt_length=3, embed=True, prefix_length=2, head_rank=2)
    rows = deltas.init(jax.random.key(1), Decoder.sites(CFG), cfg, 3)
    leaves, tree = jax.tree.flatten(rows)
    rows = jax.tree.unflatten(
        tree,
        [x + 0.3 * jax.random.normal(jax.random.key(i), x.shape) for i, x in enumerate(leaves)],
    )
    out = generator((params, rows), PROMPTS, sampling(3, max_new=NEW))
    alone = [
        anew(p, n, deltas.take(rows, jnp.array([i])))
        for i, (p, n) in enumerate(zip(PROMPTS, NEW, strict=True))
    ]
    assert out.ids == alone
    assert out.ids != generator((params, None), PROMPTS, sampling(3, max_new=NEW)).ids


def test_end_tokens_stop_strings_and_streams(params, generator, anew):
    free = anew(PROMPTS[1], 12)
    eos = free[4]
    ending = backbone_generator(CFG, eos=[eos], chunk=16)(
        (params, None), PROMPTS, sampling(3, max_new=12)
    )
    assert ending.ids[1] == free[: free.index(eos)] and ending.reason[1] == "eos"
    assert ending.end[1] == eos
    assert [e is None for e in ending.end] == [why != "eos" for why in ending.reason]

    stop = text_of(free)[5:7]
    first = text_of(free).find(stop)
    how = sampling(3, max_new=12)
    out = generator((params, None), PROMPTS, how, stop=["???", stop], text_of=text_of)
    assert out.reason[1] == "stop"
    assert out.texts[1] == text_of(free)[:first] and out.ids[1] == free[: first + 2]
    assert out.texts[0] == text_of(out.ids[0])

    parts = list(generator.stream((params, None), PROMPTS, how, every=5))
    assert [len(p.ids[1]) for p in parts] == [6, 11, 12]
    assert parts[0].reason[1] is None and parts[-1].ids[1] == free
    with pytest.raises(ValueError, match="text_of"):
        generator((params, None), PROMPTS, how, stop=["x"])


def test_sampled_rows_do_not_depend_on_their_batch(params, generator):
    how = {"temperature": 1.0, "top_p": 0.9, "repetition": 1.3, "max_new": 9}
    together = generator((params, None), PROMPTS, sampling(3, seed=[4, 5, 6], **how))
    alone = generator((params, None), [PROMPTS[2]], sampling(1, seed=[6], **how))
    assert together.ids[2] == alone.ids[0]


def test_a_penalty_may_spare_what_the_prompt_says(params, generator):
    """An answer says nothing twice, and yet what its prompt has said: free as far as it was written, then penalised."""
    free = generator((params, None), PROMPTS, sampling(3, max_new=12)).ids
    longer = [[*prompt, *ids[:6]] for prompt, ids in zip(PROMPTS, free, strict=True)]
    how = {"max_new": 6, "repetition": 1e4}
    spared = generator((params, None), longer, sampling(3, spare_prompt=True, **how)).ids
    assert [ids[0] for ids in spared] == [ids[6] for ids in free]
    assert all(len(set(ids)) == len(ids) for ids in spared)
    copied = [i for i in range(3) if spared[i][0] in longer[i]]
    strict = generator((params, None), longer, sampling(3, **how)).ids
    assert copied and all(strict[i][0] not in longer[i] for i in copied)


def test_prompts_without_room_are_refused(params, generator):
    with pytest.raises(
        ValueError, match="prompt 1 has 90 tokens; with 8 new ones it passes the model's 96"
    ):
        generator((params, None), [[1], [2] * 90], sampling(2, max_new=8))
    with pytest.raises(ValueError, match="prompt 0 is empty"):
        generator((params, None), [[]], sampling(1))
    with pytest.raises(ValueError, match="1 prompts, but settings for 2 rows"):
        generator((params, None), [[1]], sampling(2))


def test_greedy_equals_transformers(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    cfg = transformers.Qwen2Config(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(cfg).eval()
    with torch.no_grad():
        for x in model.parameters():
            x.add_(torch.randn_like(x) * 0.2)
    model.save_pretrained(tmp_path)
    prompts = [[5, 6, 7, 8], [9, 3]]
    ids = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 3]])
    how = {"max_new_tokens": 10, "do_sample": False, "repetition_penalty": 1.2}
    theirs = model.generate(ids, attention_mask=(ids > 0).long(), **how)[:, 4:].tolist()
    ours, params = hub.load(tmp_path, cuts=(1,))
    made = backbone_generator(dataclasses.replace(ours, max_positions=64))
    # HF's penalty sees the padding as a token of the text, so the padded row goes alone
    alone = model.generate(ids[1:, 2:], **how)[:, 2:].tolist()
    out = made((params, None), prompts, sampling(2, max_new=10, repetition=1.2))
    assert out.ids == [theirs[0], alone[0]]
    assert np.asarray(out.ids).shape == (2, 10)
