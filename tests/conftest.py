"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# On a busy machine a deadline or a slow draw says nothing of the code.
settings.register_profile("rankserve", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rankserve")
