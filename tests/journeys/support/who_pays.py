"""The table of who pays, as the journeys check it: where a call goes, how it has to end, and what it has to cost."""

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from bpe_openai import get_encoding

from journeys.support import provider_wires
from journeys.support.endpoints import EMBEDDINGS, SOCKET, STREAMED, WHOLE, Call, Door
from journeys.support.many_users import crowd
from journeys.support.provider_wires import MESSAGES, WIRES, Wire
from journeys.support.server import Server
from journeys.support.users import PLENTY, Person
from journeys.upstream.handle import Upstream, scripted
from patience import PATIENCE_S

ANSWER = "one two three four five six seven"
TEMPLATE = 7
"""What is counted for the template of one message, besides its text."""


class Cell(NamedTuple):
    """A door, and the wire of the provider behind it."""

    door: Door
    wire: Wire

    def __str__(self) -> str:
        return f"{self.door.name} {self.wire.model}"

    @property
    def passes_on(self) -> bool:
        """Whether the provider's wire is the door's."""
        return self.wire.path == self.door.path


NUMBERS = Cell(EMBEDDINGS, provider_wires.EMBEDDINGS)
EVERY_WHOLE = tuple(Cell(door, wire) for door in WHOLE for wire in WIRES)
EVERY_STREAM = tuple(Cell(door, wire) for door in STREAMED for wire in WIRES)


class End(NamedTuple):
    """How a call has to end.

    `text` is what is heard of the answer, `received` what came of it, if that is more; None: as much as was heard.
    `cut`: it is told to have been too long. `twice`: the provider says everything twice. `late`: the charge was swept
    up before.
    """

    basis: str
    cost: int | None = None
    code: str | None = None
    status: int = 200
    text: str | None = ANSWER
    received: str | None = None
    asked: int = 1
    cut: bool = False
    twice: bool = False
    late: bool = False

    @property
    def state(self) -> str:
        return "released" if self.basis == "none" else "settled"


def paid(usage: tuple[int, int], text: str | None = ANSWER) -> End:
    """As the provider reported it."""
    return End("provider", sum(usage), text=text)


def counted(text: str | None = ANSWER) -> End:
    """The whole answer came, and was counted."""
    return End("counted", text=text)


def broken(code: str, text: str | None, received: str | None = None) -> End:
    """It broke after something was said."""
    return End("counted", code=code, text=text, received=received)


def unknown(status: int, code: str) -> End:
    """Nobody knows what it cost."""
    return End("unknown", code=code, status=status, text="")


def free(status: int, code: str, asked: int = 1) -> End:
    """Nothing can have been billed."""
    return End("none", 0, code=code, status=status, text="", asked=asked)


Visit = Callable[[Cell, Person, str], Awaitable[End]]
"""Goes to a cell with a prompt, and tells how it ended."""


async def walk(
    server: Server,
    upstream: Upstream,
    cells: Iterable[Cell],
    visit: Visit,
    script: Mapping[str, Any] | Callable[[Person], Mapping[str, Any]],
    *,
    limit: int = PLENTY,
) -> list[dict[str, Any]]:
    """Visit each cell, all at once, each by a person of their own; then look at what it cost and who was asked.

    The prompts have the script in them. Every cell that is not as it has to be is told. What arrived at the upstream.
    """
    cells = list(cells)
    row = f"r{secrets.token_hex(6)}"
    async with crowd(server, len(cells), limit) as people:
        tasks = []
        for cell, caller in zip(cells, people, strict=True):
            told = script(caller) if callable(script) else script
            tasks.append(_visit(cell, caller, scripted(f"{row} {caller.marker}", **told), visit))
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    arrived = upstream.seen(row)
    wrong = [end for end in ends if isinstance(end, Exception)]
    for cell, caller, end in zip(cells, people, ends, strict=True):
        paths = Counter(one["path"] for one in arrived if caller.marker in str(one["body"]))
        if isinstance(end, End) and paths != Counter({cell.wire.path: end.asked}):
            wrong.append(AssertionError(f"{cell}: asked {paths}, not {end.asked} times"))
    if wrong:
        raise ExceptionGroup(f"{len(wrong)} of {len(cells)} cells", wrong)
    return arrived


async def _visit(cell: Cell, caller: Person, prompt: str, visit: Visit) -> End:
    try:
        async with asyncio.timeout(PATIENCE_S):
            end = await visit(cell, caller, prompt)
        await _assert_paid(cell, caller, prompt, end)
    except Exception as error:
        error.add_note(f"at {cell}")
        raise
    return end


async def _assert_paid(cell: Cell, caller: Person, prompt: str, end: End) -> None:
    """The first charge is as it has to be, the only one that costs something, and nothing is held any more."""
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


def _assert_counted(cell: Cell, charge: dict[str, Any], prompt: str, end: End) -> None:
    assert charge["input_tokens"] in input_counts(cell, prompt), charge
    if cell.door.writes:
        received = end.text if end.received is None else end.received
        assert received is not None
        assert charge["output_tokens"] == tokens(received), charge
    else:
        assert charge["output_tokens"] == 0
    total = charge["input_tokens"] + charge["output_tokens"]
    assert charge["cost"] == min(total, charge["held"]), charge
    assert end.late or charge["forgiven"] == (charge["held"] - charge["cost"] if end.basis == "unknown" else 0)
    assert charge["adjusted"] == end.late
    assert not charge["overrun"]


def input_counts(cell: Cell, prompt: str) -> set[int]:
    """What the input of a call may be counted as. Exact on the native doors; on others' wires, where a request goes out
    as it came, a word besides the prompt's may count, as that of the role, and quoted text is counted with its quotes.
    On the messages wire the provider tells it before it answers: its words, unless a script says another number.
    """
    counted, door = tokens(prompt) + TEMPLATE, cell.door
    said = re.search(r'"usage": \{"input": (\d+)', prompt)
    told = {int(said[1]) if said else len(prompt.split())} if cell.wire == MESSAGES else set()
    if not door.writes:
        return {*range(tokens(prompt), 2 * counted)} | told
    return {*range(counted, counted + (1 if door.path.startswith("/ai/") else 4))} | told


def check_told(cell: Cell, made: Call, end: End) -> End:
    """What the caller heard of it is what happened, in the dialect of the door. The end, with what was heard."""
    door, said = cell.door, made.said
    if door is not SOCKET:
        assert made.headers["X-Charge-ID"].startswith("chg_")
        assert made.headers["X-Quota-Name"] == "user-total"
    assert made.status == end.status, made.raw
    if end.status != 200:
        assert made.code == end.code
        assert (said.text, said.ends) == ("", 0)
        assert made.headers.get("x-should-retry") == _should_retry(door, end)
        return end
    if end.text is not None and door.writes:
        assert said.text == end.text
    assert (said.error is not None) == (end.code is not None), made.raw
    if end.code is not None:
        assert said.ends == 0, "it ended as if it were whole"
        assert said.finish is None
    elif door.writes:
        assert said.ends == 1 or not door.streams or (end.twice and cell.passes_on), made.raw
        assert (said.finish == door.dialect.length) == end.cut, said.finish
        assert said.finish
    return end._replace(text=said.text)


def _should_retry(door: Door, end: End) -> str | None:
    """SDKs are told not to ask again for what may have been billed, or where our key is refused."""
    final = end.basis != "none" or end.code == "provider_auth_failed"
    return "false" if door.path.startswith("/v1") and final else None


async def closed_charge(caller: Person) -> dict[str, Any]:
    """The first charge, as soon as it is closed."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            charges = await caller.charges()
            assert len(charges) <= 1 or {one["basis"] for one in charges[:-1]} == {"cache"}, charges
            if charges and charges[-1]["closed_at"] is not None:
                return charges[-1]
            await asyncio.sleep(0.05)


def tokens(text: str) -> int:
    """In the vocabulary that everything but OpenAI's older models is counted with."""
    return len(_encoding().encode_ordinary(text))


_encoding = cache(lambda: get_encoding("o200k_base"))
