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
        fail(breaker)
    return breaker


def fail(breaker: Breaker) -> None:
    """A call that goes wrong."""
    call = breaker.admits()
    assert call is not None
    breaker.failed(call)


def test_it_opens_after_failures_in_a_row() -> None:
    """A success in between begins the count anew."""
    breaker = Breaker(failures=3, clock=Clock())
    for well in (False, False, True, False, False):
        breaker.succeeded() if well else fail(breaker)
        assert breaker.state == "closed"
        assert breaker.admits() is not None
    fail(breaker)
    assert (breaker.state, breaker.admits()) == ("open", None)


def test_calls_that_fail_together_are_one_failure() -> None:
    """A stall of our own fails all that are under way: it takes as many one after another to open it."""
    breaker = Breaker(failures=2, clock=Clock())
    calls = [breaker.admits() for _ in range(6)]
    for call in calls:
        assert call is not None
        breaker.failed(call)
    together: str = breaker.state
    fail(breaker)
    assert (together, breaker.state) == ("closed", "open")


def test_an_open_one_lets_one_call_try_now_and_then() -> None:
    """One in so many seconds; if it fails, the next in as many again."""
    clock = Clock()
    breaker = opened(clock)
    for _ in range(3):
        clock.now += 0.9
        assert breaker.admits() is None
        clock.now += 0.1
        call, *others = (breaker.admits() for _ in range(3))
        assert others == [None, None]
        assert call is not None
        trying: str = breaker.state
        breaker.failed(call)
        assert (trying, breaker.state) == ("half-open", "open")


def test_it_closes_when_the_try_succeeds() -> None:
    """And stays closed until there are as many failures again."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 1
    assert breaker.admits() is not None
    breaker.succeeded()
    assert None not in [breaker.admits() for _ in range(5)]
    fail(breaker)
    assert breaker.state == "closed"


def test_a_try_that_never_ends_holds_nothing_up() -> None:
    """A call that was cancelled tells nothing: another may try."""
    clock = Clock()
    breaker = opened(clock)
    for _ in range(3):
        clock.now += 1
        assert breaker.admits() is not None
    breaker.succeeded()
    assert breaker.state == "closed"


def test_a_sign_of_life_lets_the_next_call_try() -> None:
    """Without waiting; the breaker closes only when that call succeeds."""
    breaker = opened(Clock())
    assert breaker.admits() is None
    breaker.answers()
    assert breaker.state == "open"
    call = breaker.admits()
    assert call is not None
    assert breaker.admits() is None
    breaker.failed(call)
    assert breaker.state == "open"
