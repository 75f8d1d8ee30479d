"""Floor 4: a model behind a URL that speaks OpenAI's protocol (vLLM, llama.cpp, Ollama, OpenAI), as a `Completion`.

    Endpoint("http://localhost:8000/v1", model="Qwen/Qwen3-8B")        the key, where one is wanted, in OPENAI_API_KEY

Prompts go as messages: the server's own chat template writes them. Its tokenizer is not here, so tokens are guessed, on
the high side (`prompts.budget`). Whatever goes wrong is one line: nobody there, no such model, a key that is refused.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from jaxrec.config import RunError
from jaxrec.data.chat_format import ChatFormat
from jaxrec.dialogue.prompts import Generation, Prompt

_NO_KEY = "none"  # the client wants one, most servers of one's own do not


class EndpointError(RunError):
    """A server that is away, or that refuses what it is asked."""


class Endpoint:
    """A model at a URL.

    url: as OpenAI's clients have it, most often with /v1 at its end. model: its name there; "": the first that the
    server names. how: lengths and sampling (a repetition penalty is not in the protocol and must be 1). room: tokens of
    a prompt, as they are guessed. timeout: seconds. retries: after a connection that failed.
    """

    chat: ChatFormat | None = None

    def __init__(
        self,
        url: str,
        model: str = "",
        *,
        how: Generation,
        room: int = 3000,
        timeout: float = 60.0,
        retries: int = 1,
    ):
        try:
            import openai
        except ImportError as error:
            raise EndpointError(
                "an endpoint needs the extra: pip install 'jaxrec[talk]'"
            ) from error
        if not url.startswith(("http://", "https://")):
            raise EndpointError(f"{url!r} is no URL: an endpoint is like http://localhost:8000/v1")
        if how.repetition != 1.0:
            raise EndpointError("an endpoint knows no repetition penalty: set repetition=1")
        self.url, self.how, self.room, self._errors = url, how, room, openai
        key = os.environ.get("OPENAI_API_KEY", _NO_KEY)
        self._client = openai.OpenAI(
            base_url=url, api_key=key, timeout=timeout, max_retries=retries
        )
        self.model = model or self._first()
        self.name = f"{self.model} at {url}"

    def __call__(self, prompts: Sequence[Prompt], seed: int = 0) -> list[str]:
        """As `Completion`, one after the other."""
        return [self._whole(prompt, seed + i) for i, prompt in enumerate(prompts)]

    def stream(self, prompt: Prompt, seed: int = 0) -> Iterator[str]:
        """As `Completion`."""
        for event in self._asked(lambda: self._create(prompt, seed, stream=True)):
            if event.choices and (piece := event.choices[0].delta.content):
                yield piece

    # -------------------------------------------------------------------------------------- inside

    def _whole(self, prompt: Prompt, seed: int) -> str:
        answer = self._answered(lambda: self._create(prompt, seed))
        choices = getattr(answer, "choices", None)
        if not choices:
            raise EndpointError(f"{self.url} gave no answer: is it an endpoint for chats?")
        return (choices[0].message.content or "").strip()

    def _create(self, prompt: Prompt, seed: int, stream: bool = False) -> Any:
        how = self.how
        return self._client.chat.completions.create(
            model=self.model,
            messages=[{"role": role, "content": said} for role, said in prompt.messages],
            max_tokens=how.max_new,
            temperature=how.temperature,
            top_p=how.top_p,
            stop=list(how.stop) or self._errors.NOT_GIVEN,
            seed=seed,
            stream=stream,
        )

    def _first(self) -> str:
        """The first model that the server names."""
        named = self._answered(lambda: self._client.models.list())
        models = getattr(named, "data", None) or []
        if not models:
            raise EndpointError(f"{self.url} names no model: say which with --endpoint-model")
        return models[0].id

    def _asked(self, ask: Any) -> Iterator[Any]:
        """The events of a stream; what fails while it runs is said as well."""
        events = self._answered(ask)
        while True:
            event = self._answered(lambda: next(events, None))
            if event is None:
                return
            yield event

    def _answered(self, ask: Any) -> Any:
        errors = self._errors
        try:
            return ask()
        except errors.APITimeoutError:
            raise EndpointError(f"{self.url} took too long to answer") from None
        except errors.APIConnectionError as error:
            why = str(error.__cause__ or error).splitlines()[0]
            raise EndpointError(f"nobody answers at {self.url}: {why}") from None
        except errors.APIStatusError as error:
            raise EndpointError(f"{self.url} refuses: {_said(error)}") from None
        except (errors.OpenAIError, ValueError) as error:
            raise EndpointError(f"{self.url} gave what is no answer: {error}") from None


def _said(error: Any) -> str:
    """The server's own words, in one line."""
    body = error.body if isinstance(error.body, dict) else {}
    words = body.get("message") or error.message
    return f"{error.status_code}, {' '.join(str(words).split())[:200]}"
