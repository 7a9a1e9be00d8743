"""Where a package of an extra is missing, the error names the package, so that its text works in a checkout, too."""

import sys

import pytest

from tollkeeper.bootstrap.events import make_event_sinks
from tollkeeper.clock import SystemClock
from tollkeeper.errors import ConfigurationError
from tollkeeper.rate_limits.throttle import Throttle
from tollkeeper.settings import load_settings


def test_a_shared_limits_store_names_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tollkeeper.rate_limits.shared_counters", None)
    with pytest.raises(ConfigurationError, match=r"TOLLKEEPER_LIMITS_STORE needs .*pip install 'redis<\d+,>=\d"):
        Throttle(login="off", ai="off", reads="off", handshakes="off", clock=SystemClock(), store_url="redis://x/0")


def test_traces_name_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tollkeeper.gateway.call_spans", None)
    with pytest.raises(ConfigurationError, match=r"TOLLKEEPER_TRACE_URL needs .*pip install 'opentelemetry-proto<"):
        make_event_sinks(load_settings(trace_url="http://127.0.0.1:4318/v1/traces"))
