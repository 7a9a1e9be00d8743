"""A provider's usage export is compared with the charges of the same time."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from verified_ledger import TERMS, VerifiedLedger, open_verified

from support.factories import FakeClock
from tollkeeper.chat import Usage
from tollkeeper.errors import InvalidRequest
from tollkeeper.quota import time_sorted_ids
from tollkeeper.quota.rules.models import Basis
from tollkeeper.tenant_scope import ALL_TENANTS, TenantScope
from tollkeeper.usage.exports import ExportFormat, ExportLine, read_export
from tollkeeper.usage.reconciliation import Reconciliation, reconcile
from tollkeeper.usage.rollup import UsageRollup

HOUR_MS = 3_600_000
DAY = timedelta(days=1)
CSV_COLUMNS = {"start": "Date", "model": "Model", "input": "In", "output": "Out"}


def openai_page(*results: dict[str, Any], **fields: Any) -> dict[str, Any]:
    bucket = {"object": "bucket", "start_time": 1_730_419_200, "end_time": 1_730_505_600, "results": list(results)}
    return {"object": "page", "data": [bucket], "has_more": False, "next_page": None} | fields


OPENAI_RESULT = {
    "object": "organization.usage.completions.result",
    "input_tokens": 1000,
    "output_tokens": 500,
    "input_cached_tokens": 800,
    "num_model_requests": 5,
    "model": "gpt-4o-mini-2024-07-18",
}
ANTHROPIC_PAGE = {
    "data": [
        {
            "starting_at": "2024-11-01T00:00:00Z",
            "ending_at": "2024-11-02T00:00:00Z",
            "results": [
                {
                    "uncached_input_tokens": 100,
                    "cache_creation": {"ephemeral_1h_input_tokens": 20, "ephemeral_5m_input_tokens": 3},
                    "cache_read_input_tokens": 7,
                    "output_tokens": 50,
                    "model": "claude-opus-4-20250514",
                }
            ],
        }
    ],
    "has_more": False,
}
START_MS, END_MS = 1_730_419_200_000, 1_730_505_600_000


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "export"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_exports_of_providers_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, [openai_page(OPENAI_RESULT, has_more=True), openai_page(OPENAI_RESULT)])
    lines = read_export(path, ExportFormat.OPENAI, {}, DAY)
    assert lines == [ExportLine(START_MS, END_MS, "gpt-4o-mini-2024-07-18", 1000, 500, 800, 5)] * 2
    path = written(tmp_path, ANTHROPIC_PAGE)
    [line] = read_export(path, ExportFormat.ANTHROPIC, {}, DAY)
    assert line == ExportLine(START_MS, END_MS, "claude-opus-4-20250514", 130, 50, 7, None)
    path = written(tmp_path, '\ufeffDate,Model,In,Out,More\n2024-11-01,small,"1,000",5,x\n1730419200,small,7,0,\n')
    found = read_export(path, ExportFormat.CSV, CSV_COLUMNS, timedelta(hours=1))
    assert [(line.start_ms, line.end_ms - line.start_ms) for line in found] == [(START_MS, HOUR_MS)] * 2
    assert [line[2:] for line in found] == [("small", 1000, 5, None, None), ("small", 7, 0, None, None)]


@pytest.mark.parametrize(
    ("export_format", "content", "reason"),
    [
        (ExportFormat.OPENAI, "{", "Expecting"),
        (ExportFormat.OPENAI, openai_page(OPENAI_RESULT | {"model": None}), "not grouped by model"),
        (ExportFormat.OPENAI, openai_page(OPENAI_RESULT, has_more=True), "one of several pages"),
        (ExportFormat.OPENAI, openai_page(OPENAI_RESULT | {"input_tokens": -1}), "no number"),
        (ExportFormat.OPENAI, openai_page(OPENAI_RESULT | {"output_tokens": True}), "no number"),
        (ExportFormat.OPENAI, ANTHROPIC_PAGE, "it has no"),
        (ExportFormat.ANTHROPIC, {"data": [{"results": [{}]}]}, "it has no 'model'"),
        (ExportFormat.CSV, "Date,Model\n2024-11-01,small\n", "it has no 'In'"),
        (ExportFormat.CSV, "Date,Model,In,Out\nsoon,small,1,2\n", "Invalid isoformat"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(
    tmp_path: Path, export_format: ExportFormat, content: Any, reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        read_export(written(tmp_path, content), export_format, CSV_COLUMNS, DAY)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_export(tmp_path / "absent", export_format, CSV_COLUMNS, DAY)


@pytest.fixture
async def ledger(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[VerifiedLedger]:
    clock = FakeClock()
    monkeypatch.setattr(time_sorted_ids, "time", SimpleNamespace(time_ns=lambda: clock.ms * 1_000_000))
    async with open_verified(database_url, clock) as made:
        yield made


async def test_differences_are_listed_with_their_charges_the_doubtful_ones_first(ledger: VerifiedLedger) -> None:
    hour = ledger.clock.ms - ledger.clock.ms % HOUR_MS
    ids = [await ledger.spend(Usage(3, 4), basis) for basis in (Basis.PROVIDER, Basis.COUNTED, Basis.PROVIDER)]
    ledger.clock.ms = hour + HOUR_MS
    async with ledger.ledger.reservation(ledger.caller, TERMS._replace(model="gpt-4o-mini")) as reservation:
        reservation.set_usage(Usage(10, 20, 5))
    await UsageRollup(ledger.database, ledger.clock).run()

    async def compare(*lines: ExportLine, scope: TenantScope = ALL_TENANTS, **models: str) -> Reconciliation:
        async with ledger.database.session() as session:
            return await reconcile(session, scope, "echo", lines, models, most_ids=2)

    first, second = (hour, hour + HOUR_MS), (hour + HOUR_MS, hour + 2 * HOUR_MS)
    right = ExportLine(*first, "echo", 9, 12, 0, 3), ExportLine(*second, "gpt-4o-mini-2024-07-18", 10, 20, 5, 1)
    found = await compare(*right)
    assert (found.compared, found.differences) == (2, [])
    assert (await compare(*right, scope=TenantScope(ledger.caller.tenant_id))).differences == []
    assert (await compare(right[0]._replace(model="e"), e="echo")).differences == []
    halves = [right[0]._replace(input_tokens=4, requests=None), right[0]._replace(input_tokens=5, output_tokens=0)]
    assert (await compare(*halves)).differences == []

    [wrong] = (await compare(right[0]._replace(output_tokens=13), right[1])).differences
    assert (wrong.model, wrong.reported.output_tokens, wrong.charged.output_tokens) == ("echo", 13, 12)
    assert wrong.charge_ids[0] == ids[1]
    assert len(wrong.charge_ids) == 2
    unknown, absent = (await compare(ExportLine(*first, "unheard", 1, 1))).differences[::-1]
    assert (absent.model, absent.reported.input_tokens, unknown.model, unknown.charge_ids) == ("echo", 0, "unheard", [])
    await ledger.execute(
        "INSERT INTO provider_keys (id, tenant_id, provider, sealed_key, suffix, created_ms)"
        f" VALUES ('pk_1', {ledger.caller.tenant_id}, 'echo', '-', '-', 0)"
    )
    found = await compare(*right)
    assert found.left_out == [ledger.caller.tenant_id]
    assert [one.charged.input_tokens for one in found.differences] == [0, 0]
