"""The conditions on a usage report, and what is charged if it does not meet them."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tollkeeper.chat import InconsistentUsage, Price, Usage, UsageReport
from tollkeeper.dialects import embeddings
from tollkeeper.dialects.chat.answer_reader import read_usage as read_chat_usage
from tollkeeper.dialects.messages.answer_reader import read_usage as read_messages_usage
from tollkeeper.dialects.responses.answer_reader import read_usage as read_responses_usage
from tollkeeper.gateway.usage_reports import ChargedUsage, Evidence, proven_usage, usage_as_counted, usage_as_reported
from tollkeeper.quota.rules.meter import Meter
from tollkeeper.quota.rules.models import Basis

WINDOW = 5_000
CALL = Evidence(WINDOW, WINDOW)
NO_OUTPUT = CALL._replace(has_output=False)
EMPTY = CALL._replace(has_input=False, has_output=False)
INPUT_ONLY = CALL._replace(has_output=False, without_output=True)
NOT_COVERED = CALL._replace(covered=False)
COUNTED, HOLD = Usage(50, 8), Usage(1_000, 500)
METER = Meter(1_000, Price(1_000_000, 500_000, 2_000_000))


def charge(report: UsageReport | None, evidence: Evidence = CALL, counted: Usage = COUNTED) -> ChargedUsage:
    usage = usage_as_reported(report, evidence)
    if usage is not None:
        return ChargedUsage(usage, Basis.PROVIDER)
    return usage_as_counted(report, evidence, counted, METER, HOLD)


@pytest.mark.parametrize(
    ("report", "evidence", "charged"),
    [
        (Usage(40, 10, 30, 5, 4), CALL, Usage(40, 10, 30, 5, 4)),
        (Usage(WINDOW, WINDOW), CALL, Usage(WINDOW, WINDOW)),
        (Usage(40, 0), NO_OUTPUT, Usage(40, 0)),
        (Usage(0, 0), EMPTY, Usage(0, 0)),
        (InconsistentUsage(20, 424, 1016), CALL, Usage(20, 996, 0, 0, 572)),
        (InconsistentUsage(10, 3, 18, 4, 2, 5), CALL, Usage(10, 8, 4, 2, 5)),
        (InconsistentUsage(20, 0, 1016), CALL, Usage(20, 996, 0, 0, 996)),
        (InconsistentUsage(20, None, 30), CALL, Usage(20, 10)),
        (InconsistentUsage(20, None, 20), NO_OUTPUT, Usage(20, 0)),
        (InconsistentUsage(20, 0, 30), INPUT_ONLY, Usage(30, 0)),
    ],
)
def test_a_report_that_can_be_true_is_charged_as_reported(
    report: UsageReport, evidence: Evidence, charged: Usage
) -> None:
    assert charge(report, evidence) == (charged, Basis.PROVIDER)


@pytest.mark.parametrize(
    ("report", "evidence", "charged"),
    [
        (None, CALL, COUNTED),
        (Usage(0, 0), CALL, COUNTED),
        (Usage(0, 42), CALL, Usage(50, 42)),
        (Usage(40, 0, 30, 5), CALL, Usage(40, 8, 30, 5)),
        (Usage(0, 0), NO_OUTPUT, Usage(50, 8)),
        (Usage(WINDOW + 1, 9), CALL, Usage(50, 9)),
        (Usage(60, WINDOW + 1), CALL, Usage(60, 8)),
        (InconsistentUsage(60, None), CALL, Usage(60, 8)),
        (InconsistentUsage(None, 9), CALL, Usage(50, 9)),
        (InconsistentUsage(None, None, 100), CALL, Usage(50, 50)),
        (InconsistentUsage(None, None, 30), CALL, COUNTED),
        (InconsistentUsage(0, 42, 142), CALL, Usage(50, 92)),
        (InconsistentUsage(60, 9, 10**9), CALL, Usage(60, 9)),
        (InconsistentUsage(60, 9, 60 + WINDOW + 1), CALL, Usage(60, 9)),
        (InconsistentUsage(60, 9, None, 61), CALL, Usage(61, 9)),
        (InconsistentUsage(60, 9, None, 40), CALL, Usage(60, 9, 40)),
        (InconsistentUsage(60, None, None, 40, 20), CALL, Usage(60, 8, 40, 20)),
        (InconsistentUsage(60, 9, None, 40, 10, 12), CALL, Usage(60, 12, 40, 10)),
        (Usage(60, WINDOW + 1, 40), CALL, Usage(60, 8, 40)),
        (InconsistentUsage(WINDOW + 1, 9, None, 40), CALL, Usage(50, 9)),
        (InconsistentUsage(60, 9, None, 10**9), CALL, Usage(60, 9)),
        (InconsistentUsage(60, 9, None, 40), NOT_COVERED, Usage(60, 9)),
        (InconsistentUsage(60, 9, None, 40, 30), CALL, Usage(70, 9, 0, 30)),
        (InconsistentUsage(60, 9, None, 0, 0, 12), CALL, Usage(60, 12)),
        (InconsistentUsage(9, 0, WINDOW + 1), INPUT_ONLY, Usage(50, 8)),
        (Usage(40, 10), NOT_COVERED, Usage(50, 10)),
        (Usage(60, 1), NOT_COVERED, Usage(60, 8)),
        (InconsistentUsage(60, 1, 100), NOT_COVERED, Usage(60, 40)),
    ],
)
def test_any_other_report_is_counted_and_is_the_least_that_is_charged(
    report: UsageReport | None, evidence: Evidence, charged: Usage
) -> None:
    assert charge(report, evidence) == (charged, Basis.COUNTED)


@pytest.mark.parametrize("report", [Usage(0, 4_000), InconsistentUsage(None, 4_000)])
def test_a_report_that_proves_more_than_the_hold_is_charged_as_far_as_it_proves_it(report: UsageReport) -> None:
    assert charge(report) == (Usage(0, 4_000), Basis.PROVIDER)


def test_a_report_that_proves_more_money_than_the_hold_is_charged_as_far_as_it_proves_it() -> None:
    assert charge(Usage(0, 1_400)) == (Usage(0, 1_400), Basis.PROVIDER)


values: Any = (
    st.integers(-2, 12_000)
    | st.integers(0, 60)
    | st.sampled_from([None, True, "9", 9.0, 10**9, 2**53, 2**70, 10**400, [], {}])
)


def reports(names: list[str], details: dict[str, list[str]]) -> Any:
    nested = {name: st.fixed_dictionaries({}, optional=dict.fromkeys(keys, values)) for name, keys in details.items()}
    optional = dict.fromkeys(names, values) | {name: inner | values for name, inner in nested.items()}
    return st.fixed_dictionaries({}, optional=optional) | values


CHAT = (
    read_chat_usage,
    reports(
        ["prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "prompt_cache_hit_tokens"],
        {
            "prompt_tokens_details": ["cached_tokens", "cache_write_tokens"],
            "completion_tokens_details": ["reasoning_tokens"],
        },
    ),
    ("prompt_tokens",),
    "completion_tokens",
)
RESPONSES = (
    read_responses_usage,
    reports(
        ["input_tokens", "output_tokens", "total_tokens"],
        {
            "input_tokens_details": ["cached_tokens", "cache_write_tokens"],
            "output_tokens_details": ["reasoning_tokens"],
        },
    ),
    ("input_tokens",),
    "output_tokens",
)
MESSAGES = (
    read_messages_usage,
    reports(
        ["input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"],
        {"output_tokens_details": ["thinking_tokens"]},
    ),
    ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    "output_tokens",
)
EMBEDDINGS = (embeddings.read_usage, reports(["prompt_tokens", "total_tokens"], {}), ("prompt_tokens",), "")


@pytest.mark.parametrize("wire", [CHAT, RESPONSES, MESSAGES, EMBEDDINGS], ids=["chat", "responses", "messages", "emb"])
@given(data=st.data())
def test_no_report_of_any_shape_is_charged_below_what_it_proves(wire: Any, data: st.DataObject) -> None:
    read, shapes, input_names, output_name = wire
    reported = data.draw(shapes)
    flags = st.booleans()
    evidence = Evidence(WINDOW, WINDOW, data.draw(flags), data.draw(flags), data.draw(flags), wire is EMBEDDINGS)
    counted = Usage(data.draw(st.integers(0, 80)), 0 if evidence.without_output else data.draw(st.integers(0, 80)))
    usage, basis = charge(read(reported), evidence, counted)

    def valid(name: str, most: int) -> int:
        value = reported.get(name) if isinstance(reported, dict) else None
        value = {"9": 9, 9.0: 9}.get(value, value) if isinstance(value, str | float) else value
        return value if type(value) is int and 0 <= value <= most else 0

    inputs = sum(valid(name, 2**53 - 1) for name in input_names)
    proven_input, proven_output = (inputs if inputs <= WINDOW else 0), valid(output_name, WINDOW)
    assert min(usage) >= 0
    assert usage.cached_input_tokens + usage.cache_write_tokens <= usage.input_tokens
    if basis is Basis.PROVIDER:
        tokens, money = METER.tokens(usage), METER.micro_usd(usage)
    else:  # as the ledger charges it
        tokens = min(METER.tokens(usage), METER.tokens(HOLD))
        money = min(METER.micro_usd(usage) or 0, METER.micro_usd(HOLD) or 0)
    assert usage.output_tokens >= proven_output
    assert tokens >= proven_input + proven_output
    assert (money or 0) >= (METER.micro_usd(Usage(0, proven_output)) or 0)
    has_possible_output = valid(output_name, 2**53 - 1) <= WINDOW  # else the total includes it, or contradicts it
    if proven_input and has_possible_output:
        assert tokens >= valid("total_tokens", proven_input + (0 if evidence.without_output else WINDOW))


counts: Any = st.none() | st.integers(0, 8_000)
small: Any = st.integers(0, 8_000)
inconsistent: Any = st.builds(InconsistentUsage, counts, counts, counts, small, small, small)
usage_reports: Any = inconsistent | st.tuples(small, small).map(lambda parts: Usage(*parts))


@given(usage_reports, st.booleans(), st.booleans(), st.booleans(), st.booleans())
@example(InconsistentUsage(0, None, 1, 0, 0, 2), False, False, True, True)
def test_a_charge_is_never_below_the_proven_usage(
    report: UsageReport, has_input: bool, has_output: bool, covered: bool, reads: bool
) -> None:
    evidence = Evidence(WINDOW, WINDOW, has_input, has_output, covered, reads)
    usage, _ = charge(report, evidence)
    assert usage.total_tokens >= proven_usage(report, evidence).total_tokens
