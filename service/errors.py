"""What can go wrong with a request or an operation, by kind.

    RankserveError
    ├── Unauthorized        no token, or not the right one
    ├── Forbidden           not allowed here at all
    ├── UnknownRanker
    ├── UnknownVersion
    ├── UnknownTable
    ├── SwapRefused         a worker could not load the version
    │   └── Superseded      a later operation overtook this one
    ├── NotFollowed         the ranker has moved, and workers are left behind
    ├── TooLarge            more bytes than the service reads
    ├── UnsupportedMedia    a body in a form the service does not read
    ├── InvalidRequest      well-formed, but no request we can answer
    ├── Overloaded          no room to wait, or no time
    ├── NotReady            nothing to serve with, yet or any more
    ├── StoreFailed         the feature store did not do what it was asked to
    ├── DeadlineExceeded    too late to be of use
    └── InferenceFailed     the model broke on this request

Every message is written for the caller: it names the field and the fix, and no internals.
Knows no status codes: these are `api.errors`' table. Errors of a bundle live in `service.bundle.errors`.
"""

from collections.abc import Collection, Mapping


class RankserveError(Exception):
    """Anything the service says no with."""


class Unauthorized(RankserveError):
    """The bearer token is missing or wrong."""


class Forbidden(RankserveError):
    """The service does not offer this, whoever asks."""


class UnknownRanker(RankserveError):
    """No ranker of that name is deployed."""

    def __init__(self, ranker: str, known: Collection[str] = ()) -> None:
        """Name the rankers there are, so that a typo is seen at once."""
        super().__init__(f"no ranker {ranker!r}; {_there_are('rankers', known)}")
        self.ranker = ranker


class UnknownVersion(RankserveError):
    """No bundle of that version is in the models folder."""

    def __init__(self, version: str, known: Collection[str] = ()) -> None:
        """Name the versions there are, so that a typo is seen at once."""
        super().__init__(f"no version {version!r}; {_there_are('versions', known)}")
        self.version = version


class UnknownTable(RankserveError):
    """No version in memory has a feature table of that name."""

    def __init__(self, table: str, known: Collection[str] = ()) -> None:
        """Name the tables there are, so that a typo is seen at once."""
        super().__init__(f"no table {table!r}; {_there_are('tables', known)}")
        self.table = table


class SwapRefused(RankserveError):
    """A version did not get to serve; the old one still does."""

    def __init__(self, message: str, reasons: Mapping[str, str] | None = None) -> None:
        """`reasons`: worker -> why it could not load the version."""
        super().__init__(message)
        self.reasons = dict(reasons or {})


class Superseded(SwapRefused):
    """A later operation on the same ranker overtook this one."""


class NotFollowed(RankserveError):
    """A ranker has moved, but not in every worker."""

    def __init__(self, ranker: str, version: str, reasons: Mapping[str, str]) -> None:
        """`reasons`: worker -> why it does not serve with the version."""
        super().__init__(
            f"{ranker} was moved to {version}, and these workers have not followed; mend or restart them, "
            f"or roll back"
        )
        self.reasons = dict(reasons)


class TooLarge(RankserveError):
    """The body has more bytes than the service reads."""


class UnsupportedMedia(RankserveError):
    """The body comes in a form the service does not read."""


class InvalidRequest(RankserveError):
    """A request that no model could answer; `field` is the path of the culprit, as `user.age`."""

    def __init__(self, field: str | None, message: str) -> None:
        """`field` is None where the whole body is at fault."""
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


class Overloaded(RankserveError):
    """Admission refused: no more rows may wait, or the deadline would pass while they do."""

    def __init__(self, retry_after_s: float, why: str = "too many rows wait already;") -> None:
        """`retry_after_s`: when there is likely to be room, in seconds."""
        super().__init__(f"{why} try again in {retry_after_s:.2g} s")
        self.retry_after_s = retry_after_s


class NotReady(RankserveError):
    """No model can take the request: still loading, or draining before the end."""


class StoreFailed(RankserveError):
    """The feature store did not answer. A request to rank does without it; a write fails."""

    def __init__(self, store: str, kind: str, message: str) -> None:
        """`kind`: a word to count by, as `timeout`."""
        super().__init__(f"the feature store {store} {message}")
        self.store = store
        self.kind = kind


class DeadlineExceeded(RankserveError):
    """The request's deadline passed before its answer was there."""

    def __init__(
        self, message: str = "the deadline passed before the slate was ranked; raise deadline_ms"
    ) -> None:
        """The default message fits every place that can notice."""
        super().__init__(message)


class InferenceFailed(RankserveError):
    """The model could not score this request; its neighbours are unharmed. Raised from what broke it."""

    def __init__(self) -> None:
        """One message for all: what the runtime says is the log's, and not the caller's."""
        super().__init__("the model could not score this request; the service's log says why")


def _there_are(what: str, known: Collection[str]) -> str:
    return f"{what}: {', '.join(sorted(known))}" if known else f"there are no {what}"
