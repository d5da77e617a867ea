"""What can be wrong with a bundle, a raw value or a formula."""

from __future__ import annotations


class BundleError(Exception):
    """A bundle cannot be used; ``str(error)`` is the reason."""


class FeatureError(ValueError):
    """A raw value, or the schema that reads it, is wrong.

    Attributes:
        field: path of the culprit, e.g. ``user.age``.
        message: what is wrong and how to mend it.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class FusionError(ValueError):
    """A fusion formula is wrong.

    Attributes:
        field: the factor, task or item attribute at fault.
        message: what is wrong and how to mend it.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
