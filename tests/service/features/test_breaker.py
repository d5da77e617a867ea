"""When a store is asked, and when it is left alone."""

from service.features.breaker import Breaker


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    """A breaker that three failures opened."""
    breaker = Breaker(failures=3, retry_s=1, clock=clock)
    for _ in range(3):
        assert breaker.admits()
        breaker.failed()
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    """A success in between begins the count anew."""
    breaker = Breaker(failures=3, clock=Clock())
    for went in (breaker.failed, breaker.failed, breaker.succeeded, breaker.failed, breaker.failed):
        went()
        assert (breaker.state, breaker.admits()) == ("closed", True)
    breaker.failed()
    assert (breaker.state, breaker.admits()) == ("open", False)


def test_an_open_one_lets_one_call_try_now_and_then() -> None:
    """One in so many seconds; if it fails, the next in as many again."""
    clock = Clock()
    breaker = opened(clock)
    for _ in range(3):
        clock.now += 0.9
        assert not breaker.admits()
        clock.now += 0.1
        assert [breaker.admits() for _ in range(3)] == [True, False, False]
        trying: str = breaker.state
        breaker.failed()
        assert (trying, breaker.state) == ("half-open", "open")


def test_it_closes_when_the_try_succeeds() -> None:
    """And stays closed until there are as many failures again."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 1
    assert breaker.admits()
    breaker.succeeded()
    assert [breaker.admits() for _ in range(5)] == [True] * 5
    breaker.failed()
    assert breaker.state == "closed"


def test_a_try_that_never_ends_holds_nothing_up() -> None:
    """A call that was cancelled tells nothing: another may try."""
    clock = Clock()
    breaker = opened(clock)
    for _ in range(3):
        clock.now += 1
        assert breaker.admits()
    breaker.succeeded()
    assert breaker.state == "closed"
