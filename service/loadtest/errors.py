"""Why there is nothing to measure."""


class LoadTestError(Exception):
    """The test cannot run, or not go on; the message is for the operator, and names the fix."""
