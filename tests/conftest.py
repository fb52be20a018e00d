"""How hard Hypothesis tries: TITO_EXAMPLES examples a law (25 unless told)."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "tito",
    max_examples=int(os.environ.get("TITO_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
settings.load_profile("tito")
