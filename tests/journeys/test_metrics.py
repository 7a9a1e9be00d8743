"""Metrics of a running server: what they count, and who may read them."""

import re
from collections.abc import Callable

from journeys.support.processes import ReservedPort
from journeys.support.server import Server
from journeys.support.users import http_client, new_user
from journeys.upstream.handle import Upstream, scripted

USAGE = {"input": 15, "output": 9}


async def scrape(server: Server, path: str = "/metrics", **headers: str) -> tuple[int, str]:
    async with http_client(server) as http, http.get(path, headers=headers) as response:
        return response.status, await response.text()


def value(text: str, name: str, **labels: str) -> float:
    """The sum of the samples of that name with these labels."""
    found = 0.0
    for line in text.splitlines():
        match = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if match and all(f'{label}="{text}"' in (match[1] or "") for label, text in labels.items()):
            found += float(match[2])
    return found


async def test_calls_tokens_and_costs_are_counted(server: Server, upstream: Upstream) -> None:
    async with new_user(server, limit=1_000) as caller:
        _, before = await scrape(server)
        assert (await caller.query(scripted(caller.marker, usage=USAGE))).status == 200
        assert (await caller.query("too much", max_tokens=100_000)).status == 429
        _, after = await scrape(server)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("gen_ai_client_token_usage_total", gen_ai_token_type="input") == 15
    assert grown("gen_ai_client_token_usage_total", gen_ai_token_type="output") == 9
    assert grown("tollkeeper_cost_tokens_total") == 24
    assert grown("gen_ai_server_request_duration_seconds_count", surface="query", error_type="") == 1
    assert grown("gen_ai_server_request_duration_seconds_count", error_type="quota_exceeded") == 1
    assert grown("gen_ai_client_operation_duration_seconds_count") == 1
    assert grown("tollkeeper_charges_total", basis="provider") == 1
    assert grown("tollkeeper_reserve_duration_seconds_count") >= 2
    assert grown("tollkeeper_ledger_batch_operations_sum") >= 2
    assert value(after, "tollkeeper_ledger_available") == 1


async def test_no_label_names_a_person_a_key_or_a_tenant(server: Server) -> None:
    async with new_user(server) as caller:
        await caller.query("hello")
        _, text = await scrape(server)
        assert caller.email not in text
    labels = {label for line in text.splitlines() for label in re.findall(r'(\w+)="', line)}
    of_python = {"generation", "version", "implementation", "major", "minor", "patchlevel"}
    of_calls = {"surface", "error_type", "basis", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_token_type"}
    of_http = {"http_request_method", "http_response_status_code"}
    of_jobs, of_webhooks = {"status", "endpoint"}, {"state"}
    of_moderation = {"kind", "stage", "action", "enforced"}
    assert labels <= of_python | of_calls | of_http | of_jobs | of_webhooks | of_moderation | {
        "le",
        "setting",
        "task",
        "origin",
        "result",
        "circuit",
    }


async def test_a_proxy_does_not_pass_the_metrics_on(server: Server) -> None:
    status, text = await scrape(server, **{"X-Forwarded-For": "192.0.2.1"})
    assert (status, "TOLLKEEPER_METRICS_TOKEN" in text) == (404, True)


async def test_metrics_need_their_token_or_have_a_port_of_their_own(
    make_server: Callable[..., Server], sqlite_url: str
) -> None:
    port = ReservedPort()
    settings = {"TOLLKEEPER_METRICS_TOKEN": "scrape-me", "TOLLKEEPER_METRICS_PORT": str(port.number)}
    server = make_server(sqlite_url, OPENAI_API_KEY="", **settings).start()
    assert (await scrape(server))[0] == 401
    assert (await scrape(server, Authorization="Bearer other"))[0] == 401
    assert (await scrape(server, Authorization="Bearer scrape-me"))[0] == 200
    status, text = await scrape(server, f"http://127.0.0.1:{port.number}/metrics")
    assert (status, "tollkeeper_ledger_queue" in text) == (200, True)
    server.stop()
    port.free()
