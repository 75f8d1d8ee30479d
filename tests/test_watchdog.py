"""What stands still is said with step, phase and host; a clock that the test moves."""

import logging

import pytest

from jaxrec import peers
from jaxrec.training import watchdog
from jaxrec.training.watchdog import COMPILING, DATA, EVALUATION, STEP, Watchdog


class Clock:
    """Seconds that pass when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def run_steps(dog: Watchdog, clock: Clock, steps: int, seconds: float = 1.0) -> None:
    for step in range(1, steps + 1):
        dog.enter(step, DATA)
        clock.now += 0.1
        dog.enter(step, STEP)
        clock.now += seconds
        dog.check()


@pytest.fixture
def clock():
    return Clock()


def test_a_step_of_ten_medians_is_said_once_and_again_at_its_double(tmp_path, clock, caplog):
    dog = Watchdog(10, 0, tmp_path, clock=clock)
    run_steps(dog, clock, 8)
    dog.enter(9, STEP)
    for _ in range(23):
        clock.now += 1
        dog.check()
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "step 9: training takes 11 s, 11 times its median of 1 s" in caplog.text
    assert "training takes 23 s" in caplog.text
    assert "test_watchdog.py" in (tmp_path / "stalled.0.txt").read_text()


def test_compiling_and_phases_seen_too_seldom_have_no_median(tmp_path, clock, caplog):
    dog = Watchdog(10, 0, tmp_path, clock=clock)
    dog.enter(1, COMPILING)
    clock.now += 500
    dog.check()
    run_steps(dog, clock, 3)
    clock.now += 500
    dog.check()
    assert not caplog.records


def test_nothing_shorter_than_five_seconds_is_a_stall(tmp_path, clock, caplog):
    dog = Watchdog(10, 0, tmp_path, clock=clock)
    run_steps(dog, clock, 8, seconds=0.01)
    clock.now += 4
    dog.check()
    assert not caplog.records


def test_evaluations_are_named_and_judged_among_themselves(tmp_path, clock, caplog):
    dog = Watchdog(10, 0, tmp_path, clock=clock)
    for step in range(1, 9):
        dog.enter(step, EVALUATION)
        clock.now += 60
        dog.check()
        run_steps(dog, clock, 1)
    assert not caplog.records
    dog.enter(9, EVALUATION)
    clock.now += 601
    dog.check()
    assert "step 9: evaluation takes 601 s, 10 times its median of 60 s" in caplog.text


def test_a_run_that_hangs_is_ended_with_a_status_of_its_own(tmp_path, clock):
    ends = []
    dog = Watchdog(0, 100, tmp_path, clock=clock, end=lambda *end: ends.append(end))
    (tmp_path / "checkpoints" / "40").mkdir(parents=True)
    dog.enter(41, COMPILING)
    clock.now += 99
    dog.check()
    assert not ends
    clock.now += 2
    dog.check()
    ((line, status),) = ends
    assert status == peers.STALLED == 76
    assert "step 41: compiling and first step takes 101 s" in line
    assert f"step 40 is saved whole in {tmp_path / 'checkpoints'}" in line


def test_another_shape_is_perhaps_being_compiled(tmp_path, clock, caplog):
    dog = Watchdog(10, 0, tmp_path, shapes=3, clock=clock)
    run_steps(dog, clock, 8)
    clock.now += 60
    dog.check()
    assert "perhaps one of 3 shapes is compiled" in caplog.text


def test_its_thread_looks_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(watchdog, "_PERIOD", 0.01)
    looked = []
    dog = Watchdog(10, 0, tmp_path)
    monkeypatch.setattr(dog, "check", lambda: looked.append(1))
    with dog:
        while not looked:
            dog._thread.join(0.01)
    dog._thread.join()
