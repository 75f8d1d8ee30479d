"""Our GRPO: rollouts by the cached decoder, a price on KL, one update of a LoRA a rollout, AdamW, fp32."""

from typing import Any

from bench.race import rollouts, shape
from bench.race.jax_decode import lora_delta, versions
from bench.race.worker import Work


def prepare(size: str = "30m", new: int = shape.NEW) -> dict[str, Work]:
    """One rollout of 16 texts to 4 prompts, and the update on it."""
    import jax
    import numpy as np

    from jaxrec import hub, objectives
    from jaxrec import mesh as meshes
    from jaxrec.dialogue.prompts import Generation
    from jaxrec.losses.policy_gradient import token_log_probs
    from jaxrec.models.language.tuned_lm import TunedLM
    from jaxrec.models.language.writing import decoder_writer, prompt_rows, written_ids
    from jaxrec.nn.decoder import Decoder
    from jaxrec.objectives.ppo import GrpoLoss, assess_grpo
    from jaxrec.structs import Tokens
    from jaxrec.training import optimizer, partition
    from jaxrec.training.rollout import KlConfig, Playout, RolloutConfig, RolloutSource
    from jaxrec.training.step import init_state, make_step

    cfg, params = hub.load(shape.model_folder(size))
    mesh = meshes.make(meshes.MeshConfig(), jax.devices()[:1])
    frozen = {"backbone": meshes.place(mesh, params)}
    # by way of numpy: a constant made by jax has a weak type, which the first update would change
    trained = jax.tree.map(np.asarray, {"delta": lora_delta(size, cfg, 1, rollouts.RANK)})
    prompts = rollouts.prompts(size)
    free = Generation(max_new=new, temperature=1.0, top_p=1.0, repetition=1.0, stop=())
    write = decoder_writer(
        cfg, free, eos=(), text_of=rollouts.text_of, longest=shape.PROMPT, merged=True
    )
    loss = GrpoLoss(group=rollouts.GROUP, max_new=new, on_policy=True, since=shape.PROMPT - 1)
    lm = TunedLM(Decoder(cfg))
    assess = jax.jit(assess_grpo(lm, loss))

    def rows_of(prompts: Any, said: Any) -> Tokens:
        return prompt_rows(prompts, said, shape.PROMPT, shape.PROMPT + new)

    def play(params: Any, index_R: Any, seed: int) -> Playout:
        picked = [prompts[rollouts.GROUP * i] for i in index_R]
        out = write(partition.merge(params, frozen), picked, seed)
        reward = np.array(rollouts.reward(out.texts), np.float32)
        return Playout(rows_of(picked, written_ids(out)), reward, {})

    fixed, earned = rollouts.fixed(size, new)
    config = RolloutConfig(
        rollouts.ROWS, rollouts.GROUP, epochs=1, kl=KlConfig(rollouts.KL, adaptive=False)
    )
    source = RolloutSource(
        config,
        rollouts.PROMPTS,
        play,
        lambda params, said, reward, coef: assess(params, frozen, said, reward, coef),
        Playout(rows_of(prompts, fixed), earned, {}),
        shape.PROMPT + new,
        tells_kl=False,
    )
    plain = optimizer.OptConfig(lr=rollouts.LR, schedule="constant", b2=0.999, clip=1.0)
    adam = optimizer.make(plain, steps=1_000_000)
    state = init_state(mesh, trained, adam)
    objective = objectives.grpo(lm, loss)
    step, key, place = make_step(*objective, adam, state), jax.random.key(0), source.init()

    def first() -> np.ndarray:
        said = rows_of(prompts, fixed)
        found = assess(trained, frozen, said, earned, rollouts.KL)
        batch = found.rollout.replace(said=said)
        totals = objective.weigh(batch)
        value, _ = jax.jit(objective.loss)(trained, frozen, None, batch, totals, None)
        logits = jax.jit(lm.outputs)(partition.merge(trained, frozen), said).logits
        inside = token_log_probs(logits, said.ids_BL)[:, shape.PROMPT :]
        return np.concatenate([[float(value)], np.ravel(inside)])

    answer = first()

    def once() -> None:
        nonlocal state, place
        batch, place = source(0, state.params, place)
        state, metrics = step(state, frozen, batch, key)
        metrics.fetch()

    return {"work": Work(once, lambda: answer, versions())}
