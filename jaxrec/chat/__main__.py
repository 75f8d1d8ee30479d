"""Talk to a tenant's assistant, or to a shop that recommends, in the terminal or over a pipe.

    python -m jaxrec.chat --tenant world:kestrel_travel                     a tenant of the sample world, by SmolLM2
    python -m jaxrec.chat --tenant shops/corner_bakery --documents docs/    a folder of your own, and its documents
    python -m jaxrec.chat --tenant corner_bakery --model runs/personalize   a personal model, in the tenant's own voice
    python -m jaxrec.chat --tenant shops/mill --endpoint http://localhost:8000/v1
    python -m jaxrec.chat --user U1 --shop orders.csv --items titles.csv    ten items, and what is said changes them
    echo "Do you open on Sunday?" | python -m jaxrec.chat --tenant shops/mill      JSON lines

At a terminal an answer is shown sentence by sentence, each after it was judged. /why says how the last answer came
about, /sources what it stands on, /like and /dislike judge it (of a list: /like 2), /profile shows what is known,
/forget lets go of it, /help lists these. Piped lines are messages, commands, or objects with a "message"; each gives
one JSON object, and what is wrong with one stands in its "error".

The model is SmolLM2-135M-Instruct by default (`jaxrec hub fetch smollm2`); passages are found by MiniLM and by words
(`jaxrec hub fetch minilm`); both need `pip install 'jaxrec[gguf,talk]'`. Nothing of a
conversation is written to disk but with --keep.
"""

import logging
import os
import sys

from jaxrec import config
from jaxrec.chat.settings import ChatConfig
from jaxrec.config import ConfigError


def main(cfg: ChatConfig) -> int:
    """Talks until the input ends; gives how many messages were answered. Raises ConfigError for nobody to talk to."""
    from jaxrec.chat.opening import open_session

    if bool(cfg.tenant) == bool(cfg.shop):
        raise ConfigError(
            "say with whom: --tenant NAME (a folder, world:KEY, ...), or --user NAME --shop EVENTS"
        )
    talks = sys.stdin.isatty() and sys.stdout.isatty() and not cfg.plain
    say = lambda line: print(line, file=sys.stderr, flush=True)
    session = open_session(cfg, say)
    if talks:
        from jaxrec.chat.terminal import converse

        return converse(session)
    from jaxrec.chat.lines import answer_lines

    return answer_lines(session, sys.stdin.buffer, lambda row: print(row, flush=True))


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    config.run(main, ChatConfig, __doc__)
