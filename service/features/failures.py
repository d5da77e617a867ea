"""What went wrong with Redis, in words that name the fix: by what its client raised."""

from __future__ import annotations

import os
import socket
import ssl

from redis.exceptions import AuthenticationError, MaxConnectionsError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from service.errors import StoreFailed


def failure(store: str, error: Exception, *, tls: bool) -> StoreFailed:
    """What a request or an operator is told of an error.

    Args:
        store: its name.
        error: that the client raised.
        tls: was the connection to be by TLS?
    """
    kind, message = _told(error, tls)
    return StoreFailed(store, kind, message)


def _told(error: Exception, tls: bool) -> tuple[str, str]:
    match error:
        case MaxConnectionsError():
            return "busy", "is busy: all connections to it are in use"
        case AuthenticationError():
            return "refused", f"refused the user or password of its URL: {_plain(error)}"
        case RedisTimeout() | TimeoutError():
            hint = "; does its port speak TLS, as rediss:// needs?" if tls else ""
            return "timeout", f"has not answered in time{hint}"
        case ResponseError():
            return "refused", f"refused the command: {error}"
        case ValueError():
            return "protocol", "answered what Redis does not; does the URL name one?"
    return "unreachable", f"cannot be reached{_why(error, tls)}"


def _why(error: Exception, tls: bool) -> str:
    """What the system says of a connection that failed, if it says anything."""
    match error.__cause__ or error.__context__:
        case ssl.SSLCertVerificationError(verify_message=reason):
            return f": its certificate is not trusted, {reason}; name one with ?ssl_ca_certs=FILE in the URL"
        case ssl.SSLError():
            return " by TLS; redis:// is without it"
        case ConnectionResetError() if not tls:
            return ": it closed the connection; rediss:// is by TLS, where it wants that"
        case socket.gaierror():
            return ": nobody knows its host"
        case OSError(errno=int(number)):
            return f": {os.strerror(number).lower()}"  # the client's own words have the address in them
    return ""


def _plain(error: Exception) -> str:
    """What Redis said, without the full stop."""
    return str(error).rstrip(".")
