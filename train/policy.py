"""Train the policy head: what is wrong with an answer, label by label, with p and without.

    JAXREC_DATA=... python -m train.policy configs/personal/policy_convabuse.py
    JAXREC_DATA=... python -m eval.policy --model runs/policy_convabuse

Texts are read once by a frozen encoder and kept on disk. p comes from a table (tenants or judges that are known) or
from a profile encoder (tenants that are not). Each fold and variant is a run of its own that resumes:
OUT/FOLD/VARIANT/model is the head with the best validation loss, its temperature and thresholds set on the validation
rows for the wanted false-positive rate.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import checkpoint, config, elastic, mesh, processes, results
from jaxrec.calibration import Calibration, calibrate
from jaxrec.config import RunError
from jaxrec.data import turns
from jaxrec.data.policy_sets import TRAIN, VALID, PolicySet, PolicySetConfig, read_policy_set
from jaxrec.data.source import ArraySource
from jaxrec.losses.labels import binary_cross_entropy, positive_weights
from jaxrec.mesh import MeshConfig
from jaxrec.models.personal.onboarding import blank
from jaxrec.models.personal.policy import PolicyBatch, PolicyHead, PolicyHeadConfig
from jaxrec.models.personal.policy_folder import PolicyModel, rows_of, save_policy
from jaxrec.models.personal.profile import ProfileEncoder, ProfileEncoderConfig
from jaxrec.models.text.text_vectors import Texts, read_texts
from jaxrec.objectives.policy import policy
from jaxrec.processes import HostsConfig
from jaxrec.training import tuning
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

VARIANTS = ("own_p", "no_p", "no_grounds")


@dataclasses.dataclass(frozen=True)
class ReadingConfig:
    """How texts become vectors (`models.text_vectors`). None: MiniLM of the PyPI package."""

    source: str | None = None
    layers: tuple[int, ...] = (-1,)
    limit: int = 64
    tokens: bool = False
    cache: str = "~/.cache/jaxrec/texts"


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """A policy head's data, size and training.

    variants: own_p; no_p, the same without p; no_grounds, without the retrieved text.
    """

    data: PolicySetConfig = PolicySetConfig()
    reading: ReadingConfig = ReadingConfig()
    head: PolicyHeadConfig = PolicyHeadConfig()
    profile: Literal["table", "encoder"] = "encoder"
    encoder: ProfileEncoderConfig = ProfileEncoderConfig(width=64, queries=4, kinds=turns.KINDS)
    variants: tuple[str, ...] = ("own_p", "no_p")
    power: float = 0.5  # of class weights, see `positive_weights`
    prior: float = 1e-2
    wanted: float = 0.05  # false-positive rate on validation rows
    fewest: int = 30  # a tenant's negatives, for thresholds of its own
    rows: int = 64
    opt: OptConfig = OptConfig(lr=1e-3, weight_decay=0.1, warmup=20)
    loop: LoopConfig = LoopConfig(steps=600, eval_every=50, monitor="valid_nll", patience=4)
    mesh: MeshConfig = MeshConfig()
    hosts: HostsConfig = HostsConfig()
    out: str = "runs/policy"

    def __post_init__(self) -> None:
        if unknown := [v for v in self.variants if v not in VARIANTS]:
            raise ValueError(f"variant {unknown[0]!r} is none of {', '.join(VARIANTS)}")


def main(cfg: PolicyConfig) -> dict[str, float]:
    """Trains every fold and variant; gives the best validation loss of each."""
    processes.start(cfg.hosts)
    devices, _ = elastic.arrange(cfg.mesh, cfg.rows)
    data = read_policy_set(cfg.data)
    print(data.summary(), flush=True)
    how = dataclasses.asdict(cfg.reading)
    texts = mesh.place(devices, read_texts(data.texts, **how))
    found = {}
    for fold in range(len(data.split_FN)):
        for variant in cfg.variants:
            name = f"{fold}/{variant}"
            found[name] = train_one(cfg, data, texts, fold, variant, devices, name)
    results.conclude([cfg.out], ("jaxrec", "eval", "policy", "--model", cfg.out))
    return found


def train_one(
    cfg: PolicyConfig,
    data: PolicySet,
    texts: Texts,
    fold: int,
    variant: str,
    devices: jax.sharding.Mesh,
    name: str,
) -> float:
    """Trains one head, calibrates it, saves it under OUT/`name`/model; gives its best validation loss."""
    rows = batch_of(data)
    train, valid = (rows_of(rows, data.split_FN[fold] == part) for part in (TRAIN, VALID))
    head, encoder = models(cfg, data, texts, variant)
    positive = positive_weights(train.target_BW, power=cfg.power)
    init = jax.jit(lambda key: init_params(key, head, encoder, len(data.tenants), texts, rows))
    params = init(jax.random.key(cfg.loop.seed))
    source = ArraySource(train, cfg.rows, seed=cfg.loop.seed)
    objective = policy(head, positive, encoder, cfg.prior)
    model = lambda params: PolicyModel(head, encoder, params, data.tenants)

    def evaluate(params, _: int) -> dict[str, float]:
        logits = model(jax.device_get(params)).logits(texts, valid)
        sums = binary_cross_entropy(
            *map(jnp.asarray, (logits, valid.target_BW, positive, np.ones(len(logits), np.float32)))
        )
        return {"valid_nll": float(sums["nll"].sum() / sums["known"].sum())}

    out = Path(cfg.out) / name
    fitted = tuning.tune(
        objective, params, source, opt=cfg.opt, config=cfg.loop, mesh=devices, rows=cfg.rows,
        out=out, frozen={"texts": texts}, evaluate=evaluate, resolved=cfg, title=f"policy {name}",
    )  # fmt: skip
    best = model(checkpoint.load_params(out / "best"))
    rules = calibrated(cfg, data, best.logits(texts, valid), valid, positive)
    facts = {
        "data": config.to_dict(cfg.data),
        "reading": config.to_dict(cfg.reading),
        "positive": positive.tolist(),
        "wanted": cfg.wanted,
        "valid_nll": fitted.value,
        "step": fitted.best,
    }
    save_policy(out / "model", dataclasses.replace(best, calibration=rules), facts)
    return fitted.value


def batch_of(data: PolicySet) -> PolicyBatch:
    """All rows of a set, with what is known of each row's tenant."""
    t = data.tenant_N
    index = (data.question_N, data.answer_N, data.grounds_N)
    return PolicyBatch(
        *(x.astype(np.int32) for x in index), data.target_NW, t.astype(np.int32),
        data.shown_US[t], data.kind_US[t], data.label_US[t],
    )  # fmt: skip


def models(
    cfg: PolicyConfig, data: PolicySet, texts: Texts, variant: str
) -> tuple[PolicyHead, ProfileEncoder | None]:
    """The head of a variant and, where p comes from evidence, the profile encoder. Raises RunError where it can't."""
    width = texts.z_cls_ID.shape[-1]
    head = dataclasses.replace(cfg.head, labels=data.labels, d_z=width)
    if variant == "no_p":
        head = dataclasses.replace(head, p_enters=())
    if variant == "no_grounds":
        reads = tuple(part for part in head.reads if part != "grounds")
        head = dataclasses.replace(head, reads=reads, align=0)
    if not head.p_enters or cfg.profile == "table":
        return PolicyHead(head), None
    if not data.shown_US.shape[1]:
        raise RunError("nothing is known of these tenants to infer p from: set profile to table")
    return PolicyHead(head), ProfileEncoder(
        dataclasses.replace(cfg.encoder, d_z=width, d_p=head.d_p)
    )


def init_params(
    key: jax.Array,
    head: PolicyHead,
    encoder: ProfileEncoder | None,
    tenants: int,
    texts: Texts,
    rows: PolicyBatch,
) -> dict:
    """Fresh head, and encoder or profile table (zeros: everybody begins as a stranger)."""
    keys = jax.random.split(key)
    one = jax.tree.map(lambda x: jnp.asarray(x[:1]), rows)
    p = jnp.zeros((1, head.cfg.d_p)) if head.cfg.p_enters else None
    at = lambda index: texts.at(index)
    z = at(one.question_B), at(one.answer_B), at(one.grounds_B)
    params = {"head": head.init(keys[0], *z, p)["params"]}
    if encoder is not None:
        params["encoder"] = encoder.init(keys[1], blank(encoder.cfg.d_z))["params"]
    elif head.cfg.p_enters:
        params["profile"] = {"p": 0.1 * jax.random.normal(keys[1], (tenants, head.cfg.d_p))}
    return params


def calibrated(
    cfg: PolicyConfig,
    data: PolicySet,
    logits: np.ndarray,
    valid: PolicyBatch,
    positive: np.ndarray,
) -> Calibration:
    """Temperature and thresholds on the validation rows; says how many tenants have their own."""
    names = [data.tenants[t] for t in valid.tenant_B]
    rules = calibrate(
        logits, valid.target_BW, names, data.labels,
        shift_W=tuple(np.log(positive).tolist()), wanted=cfg.wanted, fewest=cfg.fewest,
    )  # fmt: skip
    total = len(set(names))
    print(
        f"thresholds for a false-positive rate of {cfg.wanted:g}: {len(rules.tenants)} of {total} tenants "
        f"have {cfg.fewest} negatives or more, and their own; the others take the shared ones",
        flush=True,
    )
    return rules


if __name__ == "__main__":
    config.run(main, PolicyConfig, __doc__)
