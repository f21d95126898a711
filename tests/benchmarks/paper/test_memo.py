import time

import pytest

from benchmarks.paper.memo import Memo


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""

    class Clock:
        now = 0.0

        def spend(self, seconds, result=None):
            self.now += seconds
            return result

    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


def test_a_thing_is_computed_once():
    memo, calls = Memo(), []
    for _ in range(3):
        assert memo("a", lambda: calls.append(1) or len(calls)) == 1
    assert calls == [1]
    assert memo("b", lambda: None) is None
    assert memo("b", lambda: calls.append(2)) is None


def test_seconds_leave_out_what_a_thing_was_made_from(clock):
    memo = Memo()

    def bottom():
        return clock.spend(5, "bottom")

    def middle():
        clock.spend(1)
        memo("bottom", bottom)
        return clock.spend(2, "middle")

    def top():
        memo("middle", middle)
        clock.spend(10)
        memo("bottom", bottom)
        memo("other", lambda: clock.spend(100))
        return clock.spend(20, "top")

    assert memo("top", top) == "top"
    assert memo.seconds == {"bottom": 5, "middle": 3, "other": 100, "top": 30}
    assert sum(memo.seconds.values()) == clock.now


def test_seconds_alone_count_what_is_shared_once(clock):
    memo = Memo()

    def tower():
        return memo("tower", lambda: clock.spend(8))

    memo("a", lambda: (tower(), clock.spend(1)))
    memo("b", lambda: (tower(), memo("text", lambda: clock.spend(4)), clock.spend(2)))
    assert memo.seconds_alone(["a"]) == 8 + 1
    assert memo.seconds_alone(["b"]) == 8 + 4 + 2
    assert memo.seconds_alone(["a", "b"]) == 8 + 1 + 4 + 2
    assert memo.seconds_alone([]) == 0


def test_an_error_is_not_kept_and_is_not_charged_to_others(clock):
    memo = Memo()

    def fail():
        clock.spend(3)
        raise OSError("torn")

    def outer():
        with pytest.raises(OSError, match="torn"):
            memo("a", fail)
        return clock.spend(1)

    memo("outer", outer)
    assert memo.seconds["outer"] == 1
    assert memo("a", lambda: clock.spend(2, "mended")) == "mended"
    assert memo.seconds["a"] == 2
    memo("after", lambda: clock.spend(7))
    assert memo.seconds["after"] == 7
    assert memo.seconds_alone(["after"]) == 7


def test_what_is_forgotten_is_computed_anew_and_its_seconds_stay_known(clock):
    memo = Memo()
    memo(("a", 0), lambda: clock.spend(1, "old"))
    memo(("a", 1), lambda: clock.spend(2, "kept"))
    memo.forget(lambda key: key[-1] == 0)
    assert memo.seconds_alone([("a", 0)]) == 1
    assert memo(("a", 0), lambda: "new") == "new"
    assert memo(("a", 1), lambda: "new") == "kept"
