"""Plugins for all tests."""

from hypothesis import HealthCheck, settings

from support.depth import examples
from support.plain_logs import print_plain_logs

pytest_plugins = ("support.hang_report", "support.databases", "support.measured_tests", "support.garbage")

# A busy machine is slow, and that is no failure.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=examples(100)
)
settings.load_profile("any machine")

print_plain_logs()
