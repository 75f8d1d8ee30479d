"""Processes that speak of themselves: who is lost, who holds everybody up, who failed. No real processes, no clock."""

import json
import socket

import pytest

from jaxrec import peers, processes
from jaxrec.peers import LOST, Peers


class Store:
    """The key-value store that the processes of one job share; `down` answers nothing."""

    def __init__(self):
        self.texts, self.down = {}, False

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        if self.down:
            raise RuntimeError("UNAVAILABLE")
        self.texts[key] = value

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        if self.down:
            raise RuntimeError("UNAVAILABLE")
        return [(name, text) for name, text in self.texts.items() if name.startswith(key + "/")]


class Job:
    """Three processes on one store, with one clock that stands still."""

    def __init__(self):
        self.store, self.now, self.ends = Store(), 0.0, []
        self.all = [
            Peers(self.store, i, 3, silence=30, clock=lambda: self.now, end=self.ends.append)
            for i in range(3)
        ]

    def pass_time(self, seconds: float, *silent: int) -> None:
        for _ in range(int(seconds / 5)):
            self.now += 5
            for peer in self.all:
                if peer.index not in silent:
                    peer.beat()


@pytest.fixture
def job(monkeypatch):
    monkeypatch.setattr(peers.time, "sleep", lambda seconds: None)
    job = Job()
    for peer in job.all:
        peer.note(7, "training")
    job.pass_time(10)
    return job


def test_a_silent_process_is_the_one_that_is_named(job, capsys, tmp_path):
    for step in ("5", "20", "30.orbax-checkpoint-tmp", "40.damaged"):
        (tmp_path / step).mkdir()
    job.all[0].folder = tmp_path
    assert job.all[0].missing() == []
    job.pass_time(30, 2)
    assert job.all[0].missing() == job.all[1].missing() == [2]
    job.all[0].lost()
    said = capsys.readouterr().err
    assert job.ends == [LOST]
    assert said.count("\n") == 2  # one to leave the progress bar's line, and one line
    assert "lost process 2" in said and "last heard of at step 7 (training)" in said
    assert f"step 20 is saved whole in {tmp_path}" in said and "the same command goes on" in said


def test_under_load_the_one_that_was_silent_by_far_the_longest_is_meant(job):
    job.pass_time(10, 2)
    job.now += 1
    assert job.all[0].missing() == [] and job.all[0].likeliest() == [2]
    job.pass_time(10)
    assert job.all[0].likeliest() == []


def test_a_coordinator_that_owes_an_answer_is_lost(job):
    job.store.down = True
    job.pass_time(30, 0)
    assert job.all[1].missing() == [0]


def test_a_coordinator_that_nobody_reaches_is_lost_at_once(job):
    with socket.create_server(("localhost", 0)) as server:
        job.all[1].coordinator = f"localhost:{server.getsockname()[1]}"
        assert job.all[1].missing() == []
    assert job.all[1].missing() == [0]


def test_who_is_behind_and_what_it_does_there(job):
    mine = job.all[1]
    job.all[2].note(6, "reading data")
    for peer in (job.all[0], mine):
        peer.note(7, "training")
    job.pass_time(20)
    mine.beat()
    assert mine.behind().startswith("process 2 (")
    assert mine.behind().endswith("is at step 6, reading data for 20 s")
    job.pass_time(20, 0)
    assert "process 0" in mine.behind() and "silent for 20 s, last at step 7" in mine.behind()


def test_an_earlier_word_does_not_accuse(job):
    """The others are at the same step by now; what they said before is of another one."""
    job.now += 1
    job.all[1].note(9, "training")
    assert job.all[1].behind() == ""


def test_one_that_fails_ends_the_others_with_its_status(job, capsys):
    job.all[2].failing(ValueError("no such file"), "no such file: a.txt", 1)
    job.pass_time(5)
    assert job.ends == [1, 1]  # not its own
    said = capsys.readouterr().err
    assert "process 2" in said and "ended: no such file: a.txt" in said and "exit status 1" in said


def test_an_error_that_a_lost_peer_caused_waits_for_the_report(job, monkeypatch):
    waited = []
    monkeypatch.setattr(job.all[1]._stop, "wait", lambda seconds: waited.append(seconds))
    cause = RuntimeError("Gloo all-reduce failed: Connection closed by peer")
    outer = RuntimeError("the loss could not be fetched")
    outer.__cause__ = cause
    job.all[1].failing(outer, "", 1)
    assert waited == [45]
    job.all[2].failing(ValueError("a wrong shape"), "", 1)
    assert waited == [45]


def test_a_failed_process_does_not_wait_for_a_common_end(job):
    job.all[2].failing(ValueError("x"), "x", 3)
    job.all[2].close()
    job.all[1].close()
    assert job.ends == [3]


def test_its_words_are_json_with_the_host_and_the_step(job):
    told = json.loads(job.store.texts["jaxrec/beats/1"])
    assert told["host"] == socket.gethostname() and told["step"] == 7


def test_nothing_answers_for_a_reason():
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
        assert peers.unreachable(address) == ""
    assert peers.unreachable(address) == "Connection refused"


def test_a_second_stage_of_one_program_has_joined_already(job, monkeypatch):
    monkeypatch.setenv("JAXREC_COORDINATOR", "nowhere")
    monkeypatch.setattr(peers, "_current", job.all[0])
    processes.start()
