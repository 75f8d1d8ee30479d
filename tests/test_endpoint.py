"""A model behind a URL, by the real client against a server on the loopback device; and everything that can be away."""

import dataclasses

import pytest
from chat_server import serving

pytest.importorskip("openai")

from jaxrec.assistant.completion import Completion, greedy
from jaxrec.assistant.endpoint import Endpoint, EndpointError
from jaxrec.dialogue.prompts import Prompting

HOW = greedy(9)


def prompt(question="When do you open?"):
    return Prompting(tenant="Mill").prompt(question, passages=["Hours: we open at 8."])


def test_messages_go_as_they_are_and_the_answer_comes_back():
    with serving("We open at 8 [1].") as server:
        model = Endpoint(server.url, how=HOW)
        assert isinstance(model, Completion) and model.model == "tiny" and server.url in model.name
        assert model([prompt(), prompt("And on Sunday?")], seed=3) == ["We open at 8 [1]."] * 2
        first, second = server.asked
    roles = [one["role"] for one in first["messages"]]
    assert (
        roles == ["system", "user"]
        and "[1] Hours: we open at 8." in first["messages"][0]["content"]
    )
    assert (
        first["max_tokens"] == 9
        and first["temperature"] == 0
        and (first["seed"], second["seed"]) == (3, 4)
    )


def test_it_streams():
    with serving("We open at 8.") as server:
        pieces = list(Endpoint(server.url, "tiny", how=HOW).stream(prompt()))
    assert len(pieces) == 4 and "".join(pieces).strip() == "We open at 8."


def test_whatever_is_wrong_is_one_line(monkeypatch):
    with serving("x") as server:
        with pytest.raises(EndpointError, match="refuses: 404, the model other does not exist"):
            Endpoint(server.url, "other", how=HOW)([prompt()])
        gone = server.url
    with pytest.raises(EndpointError, match=f"nobody answers at {gone}: "):
        Endpoint(gone, how=HOW, retries=0)
    with pytest.raises(EndpointError, match="nobody answers"):
        list(Endpoint(gone, "tiny", how=HOW, retries=0).stream(prompt()))
    with serving("GARBAGE") as server, pytest.raises(EndpointError, match="gave no answer"):
        Endpoint(server.url, how=HOW)([prompt()])
    with serving("x", models=()) as server, pytest.raises(EndpointError, match="names no model"):
        Endpoint(server.url, how=HOW)
    with pytest.raises(EndpointError, match="is no URL"):
        Endpoint("localhost:8000", how=HOW)
    with pytest.raises(EndpointError, match="repetition"):
        Endpoint("http://x", how=dataclasses.replace(HOW, repetition=1.2))
