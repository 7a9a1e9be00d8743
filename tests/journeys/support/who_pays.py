"""The table "Who pays" as the journeys check it: where a call goes, how it must end, and what it must cost."""

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from bpe_openai import get_encoding

from journeys.support import provider_wires
from journeys.support.endpoints import EMBEDDINGS, STREAMING_ENDPOINTS, WEBSOCKET, WHOLE_ENDPOINTS, ClientCall, Endpoint
from journeys.support.many_users import many_users
from journeys.support.provider_wires import MESSAGES, WIRES, Wire
from journeys.support.server import Server
from journeys.support.users import AMPLE_LIMIT, ApiUser
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from support.depth import DEPTH

ANSWER = "one two three four five six seven"
TEMPLATE_TOKENS = 7
"""Tokens that are counted for the template of one message, besides its text."""


class Cell(NamedTuple):
    """An endpoint, and the wire of the provider that its call goes to."""

    endpoint: Endpoint
    wire: Wire

    def __str__(self) -> str:
        return f"{self.endpoint.name} {self.wire.model}"

    @property
    def same_wire(self) -> bool:
        """Whether the provider speaks the wire format of the endpoint."""
        return self.wire.path == self.endpoint.path


EMBEDDINGS_CELL = Cell(EMBEDDINGS, provider_wires.EMBEDDINGS)
WHOLE_CELLS = tuple(Cell(endpoint, wire) for endpoint in WHOLE_ENDPOINTS for wire in WIRES)
STREAM_CELLS = tuple(Cell(endpoint, wire) for endpoint in STREAMING_ENDPOINTS for wire in WIRES)


def one_wire_each(cells: Sequence[Cell], turn: int) -> list[Cell]:
    """Each endpoint of `cells` with one wire. As many successive turns as there are wires have all cells, and each turn
    has every wire. Where DEPTH says so, all cells at once.
    """
    names = list(dict.fromkeys(cell.endpoint.name for cell in cells))
    return [
        cell
        for cell in cells
        if DEPTH.every_cell or (names.index(cell.endpoint.name) + WIRES.index(cell.wire) - turn) % len(WIRES) == 0
    ]


class ExpectedEnd(NamedTuple):
    """How a call must end.

    `text` is the answer that the client reads, `received` what the gateway received if that is more; None: the same.
    `requests`: requests to the provider. `cut`: the finish reason is the output limit. `twice`: the provider sends each
    event twice. `late`: the sweep closed the charge before.
    """

    basis: str
    cost: int | None = None
    code: str | None = None
    status: int = 200
    text: str | None = ANSWER
    received: str | None = None
    requests: int = 1
    cut: bool = False
    twice: bool = False
    late: bool = False

    @property
    def state(self) -> str:
        return "released" if self.basis == "none" else "settled"


def paid(usage: tuple[int, int], text: str | None = ANSWER) -> ExpectedEnd:
    """The provider reported this usage."""
    return ExpectedEnd("provider", sum(usage), text=text)


def counted(text: str | None = ANSWER) -> ExpectedEnd:
    """The whole answer came without a usable usage report, and was counted."""
    return ExpectedEnd("counted", text=text)


def broken(code: str, text: str | None, received: str | None = None) -> ExpectedEnd:
    """The stream broke after some text; what was received was counted."""
    return ExpectedEnd("counted", code=code, text=text, received=received)


def unknown(status: int, code: str) -> ExpectedEnd:
    """The provider may have billed an unknown amount."""
    return ExpectedEnd("unknown", code=code, status=status, text="")


def free(status: int, code: str, requests: int = 1) -> ExpectedEnd:
    """The provider cannot have billed anything."""
    return ExpectedEnd("none", 0, code=code, status=status, text="", requests=requests)


RunCell = Callable[[Cell, ApiUser, str], Awaitable[ExpectedEnd]]
"""Makes the call of a cell with a prompt, and returns how it must end."""


async def run_cells(
    server: Server,
    upstream: Upstream,
    cells: Iterable[Cell],
    run: RunCell,
    script: Mapping[str, Any] | Callable[[ApiUser], Mapping[str, Any]],
    *,
    limit: int = AMPLE_LIMIT,
) -> list[dict[str, Any]]:
    """Run all cells at once, each with a user of its own; then check costs and requests to the provider.

    The prompts carry the script. Returns the requests that the upstream received. Raises an ExceptionGroup of all
    cells that failed.
    """
    cells = list(cells)
    row = f"r{secrets.token_hex(6)}"
    async with many_users(server, len(cells), limit) as users:
        tasks = []
        for cell, caller in zip(cells, users, strict=True):
            fields = script(caller) if callable(script) else script
            tasks.append(_run_cell(cell, caller, scripted(f"{row} {caller.marker}", **fields), run))
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    received = upstream.requests(row)
    wrong = [end for end in ends if isinstance(end, Exception)]
    for cell, caller, end in zip(cells, users, ends, strict=True):
        paths = Counter(one["path"] for one in received if caller.marker in str(one["body"]))
        if isinstance(end, ExpectedEnd) and paths != Counter({cell.wire.path: end.requests}):
            wrong.append(AssertionError(f"{cell}: received {paths}, not {end.requests} requests"))
    if wrong:
        raise ExceptionGroup(f"{len(wrong)} of {len(cells)} cells", wrong)
    return received


async def _run_cell(cell: Cell, caller: ApiUser, prompt: str, run: RunCell) -> ExpectedEnd:
    try:
        async with asyncio.timeout(TEST_DEADLINE_S):
            end = await run(cell, caller, prompt)
        await _assert_paid(cell, caller, prompt, end)
    except Exception as error:
        error.add_note(f"at {cell}")
        raise
    return end


async def _assert_paid(cell: Cell, caller: ApiUser, prompt: str, end: ExpectedEnd) -> None:
    """The first charge is as expected, the only one with a cost, and nothing is held any more."""
    charge = await closed_charge(caller)
    assert (charge["state"], charge["basis"], charge["error"]) == (end.state, end.basis, end.code), charge
    assert charge["model"] == cell.wire.model
    if end.cost is not None:
        assert charge["cost"] == end.cost, charge
        assert charge["overrun"] == (end.cost > charge["held"]), charge
    else:
        _assert_counted(cell, charge, prompt, end)
    quota = await caller.quota()
    assert (quota["used"], quota["reserved"]) == (charge["cost"], 0)


def _assert_counted(cell: Cell, charge: dict[str, Any], prompt: str, end: ExpectedEnd) -> None:
    assert charge["input_tokens"] in possible_input_tokens(cell, prompt), charge
    if cell.endpoint.returns_text:
        received = end.text if end.received is None else end.received
        assert received is not None
        assert charge["output_tokens"] == count_tokens(received), charge
    else:
        assert charge["output_tokens"] == 0
    total = charge["input_tokens"] + charge["output_tokens"]
    assert charge["cost"] == min(total, charge["held"]), charge
    assert end.late or charge["forgiven"] == (charge["held"] - charge["cost"] if end.basis == "unknown" else 0)
    assert charge["adjusted"] == end.late
    assert not charge["overrun"]


def possible_input_tokens(cell: Cell, prompt: str) -> set[int]:
    """The input tokens that may be counted for a call. Exact on the native endpoints; on a compatible endpoint, which
    passes a request on unchanged, words besides the prompt may count, such as the role, and JSON escapes. On the
    messages wire the provider reports the input before it answers: the words, unless the script has another number.
    """
    expected, endpoint = count_tokens(prompt) + TEMPLATE_TOKENS, cell.endpoint
    scripted_input = re.search(r'"usage": \{"input": (\d+)', prompt)
    reported = {int(scripted_input[1]) if scripted_input else len(prompt.split())} if cell.wire == MESSAGES else set()
    if not endpoint.returns_text:
        return {*range(count_tokens(prompt), 2 * expected)} | reported
    return {*range(expected, expected + (1 if endpoint.path.startswith("/ai/") else 4))} | reported


def assert_answered(cell: Cell, client_call: ClientCall, end: ExpectedEnd) -> ExpectedEnd:
    """The client received what `end` says, in the format of the endpoint. Returns `end` with the text received."""
    endpoint, answer = cell.endpoint, client_call.answer
    if endpoint is not WEBSOCKET:
        assert client_call.headers["X-Charge-ID"].startswith("chg_")
        assert client_call.headers["X-Quota-Name"] == "user-total"
    assert client_call.status == end.status, client_call.raw
    if end.status != 200:
        assert client_call.code == end.code
        assert (answer.text, answer.end_events) == ("", 0)
        assert client_call.headers.get("x-should-retry") == _should_retry(endpoint, end)
        return end
    if end.text is not None and endpoint.returns_text:
        assert answer.text == end.text
    assert (answer.error is not None) == (end.code is not None), client_call.raw
    if end.code is not None:
        assert answer.end_events == 0, "a broken answer ended like a complete one"
        assert answer.finish is None
    elif endpoint.returns_text:
        assert answer.end_events == 1 or not endpoint.streams or (end.twice and cell.same_wire), client_call.raw
        assert (answer.finish == endpoint.client_format.length) == end.cut, answer.finish
        assert answer.finish
    return end._replace(text=answer.text)


def _should_retry(endpoint: Endpoint, end: ExpectedEnd) -> str | None:
    """The header that stops SDKs from retrying what may have been billed, or what our provider key cannot get."""
    final = end.basis != "none" or end.code == "provider_auth_failed"
    return "false" if endpoint.path.startswith("/v1") and final else None


async def closed_charge(caller: ApiUser) -> dict[str, Any]:
    """Wait until the user's first charge is closed."""
    async with asyncio.timeout(TEST_DEADLINE_S):
        while True:
            charges = await caller.charges()
            assert len(charges) <= 1 or {one["basis"] for one in charges[:-1]} == {"cache"}, charges
            if charges and charges[-1]["closed_at"] is not None:
                return charges[-1]
            await asyncio.sleep(0.05)


def count_tokens(text: str) -> int:
    """Count in the vocabulary of everything but OpenAI's older models."""
    return len(_encoding().encode_ordinary(text))


_encoding = cache(lambda: get_encoding("o200k_base"))
