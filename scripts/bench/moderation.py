"""What a tenant's moderation costs a stream: time to its first token, and CPU time.

Each mode is a tenant with a policy, which finds nothing. The tenants call the same server in turns, so that other load
on the machine affects all of them alike.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from sqlmodel import select

from bench import upstream
from bench.figures import Figure
from bench.load import CheckedRequest
from bench.measurement import Plan, Round, run_calls, run_round
from bench.population import populate
from bench.processes import BenchError
from bench.report import format_table, show_progress
from bench.targets import Target, Testbed
from bench.workload import BURST_PROMPT, PROMPT, Workload, native_request
from tollkeeper.configuration.models import ModerationPolicy
from tollkeeper.database.engine import Database
from tollkeeper.identity.models import Tenant
from tollkeeper.moderation.documents import (
    ClassifierDocument,
    PolicyDocument,
    RuleDocument,
    Stage,
    WindowDocument,
    write_document,
)
from tollkeeper.settings import Settings

WINDOW_TOKENS = 16
"""What the rules on the output hold back: less than a stream of the upstream has."""
OFF, AGAIN, INPUT, OUTPUT, CLASSIFIER = "off", "off, again", "rules on the input", "rules on both", "a classifier"
_COST_PART = b'"cost":%d,' % upstream.STREAM_COST_TOKENS
_PARTS = (*(text.strip().encode() for text in upstream.STREAMED_TEXTS), b"data: [DONE]\n\n", _COST_PART)
"""In every response. A window may put the space between two words into either of two events."""


def _rules(*stages: Stage) -> PolicyDocument:
    """A list of words, a pattern, and all detectors."""
    return PolicyDocument(
        rules=(
            RuleDocument(name="names", action="block", stages=stages, words=tuple(f"heron{n}" for n in range(20))),
            RuleDocument(name="numbers", action="block", stages=stages, pattern=r"\bHR-\d{6}\b"),
            RuleDocument(
                name="personal", action="redact", stages=stages, pii=("email", "phone", "iban", "card", "secret")
            ),
        ),
        window=WindowDocument(tokens=WINDOW_TOKENS),
    )


_CLASSIFIER_RULE = RuleDocument(
    name="harm", action="block", stages=("input",), classifier=ClassifierDocument(provider="openai")
)
_POLICIES = {
    OFF: None,
    AGAIN: None,
    INPUT: _rules("input"),
    OUTPUT: _rules("input", "output"),
    CLASSIFIER: PolicyDocument(rules=(_CLASSIFIER_RULE,)),
}
"""By mode, in the order of the tenants."""


@dataclass(slots=True)
class _ModeratedTarget(Target):
    """The same server, called by the users of one tenant, with calls of its own in `completed`."""

    def make_requests(self, workload: Workload) -> list[CheckedRequest]:
        prompt = BURST_PROMPT if workload.is_burst else PROMPT
        return [CheckedRequest(native_request(user.token, "/ai/stream", prompt), _PARTS) for user in self.users]


@dataclass(slots=True)
class _Mode:
    """The rounds of one mode: bursts of many clients, bursts of a lone client, and paced streams of a lone client."""

    name: str
    target: _ModeratedTarget
    loaded: list[Round] = field(default_factory=list)
    lone: list[Round] = field(default_factory=list)
    paced: list[Round] = field(default_factory=list)


async def measure_moderation(testbed: Testbed, kinds: Sequence[str], plan: Plan) -> tuple[str, list[Target]]:
    """Returns the table, and the targets. Raises BenchError if a call fails, or a classifier was not called once."""
    before = (await testbed.served_by_upstream())["moderations"]
    servers: list[tuple[Target, list[_Mode]]] = []
    for kind in kinds:
        show_progress(f"starting {kind}")
        servers.append(await _start(testbed, kind, plan))
    for number in range(plan.rounds):
        show_progress(f"round {number + 1} of {plan.rounds}")
        for _, modes in servers:
            for mode in modes[:: -1 if number % 2 else 1]:
                await _run_round(mode, plan)
    for target, modes in servers:
        for mode in modes:
            target.completed.update(mode.target.completed)
    judged = (await testbed.served_by_upstream())["moderations"] - before
    wanted = sum(mode.target.completed.total() for _, modes in servers for mode in modes if mode.name == CLASSIFIER)
    if judged != wanted:
        raise BenchError(f"The classifier judged {judged} texts, but {wanted} calls were to be judged.")
    rows = [_row(mode, modes[0]) for _, modes in servers for mode in modes]
    headings = ("server", "moderation", "added ms to a burst", "added ms to a paced stream", "CPU µs", "× off")
    return format_table(headings, rows, texts=2), [target for target, _ in servers]


async def _start(testbed: Testbed, kind: str, plan: Plan) -> tuple[Target, list[_Mode]]:
    """Start a server with a tenant for each mode, whose users have called it."""
    target = await testbed.start_target(kind, fill=_fill)
    modes = []
    for number, name in enumerate(_POLICIES, start=1):
        shared = {one.name: getattr(target, one.name) for one in fields(target)}
        users = [user for user in target.users if user.tenant == f"tenant-{number}"]
        own = _ModeratedTarget(**shared | {"users": users, "completed": Counter()})
        counts = plan.counts[Workload.NATIVE_BURSTS]
        await run_calls(own, Workload.NATIVE_BURSTS, connections=counts.connections, calls=counts.warm_up)
        modes.append(_Mode(name, own))
    return target, modes


async def _fill(settings: Settings) -> list[tuple[str, str]]:
    emails = await populate(settings, len(_POLICIES))
    database = Database(settings.database_url)
    async with database.session() as session:
        tenants = (await session.exec(select(Tenant))).all()
        policies = {f"tenant-{number}": policy for number, policy in enumerate(_POLICIES.values(), start=1)}
        for tenant in tenants:
            if (policy := policies[tenant.name]) is not None:
                assert tenant.id is not None
                now_ms = time.time_ns() // 1_000_000
                session.add(ModerationPolicy(tenant_id=tenant.id, document=write_document(policy), changed_ms=now_ms))
    await database.close()
    return emails


async def _run_round(mode: _Mode, plan: Plan) -> None:
    bursts, paced = Workload.NATIVE_BURSTS, Workload.NATIVE_STREAMS
    counts = plan.counts[bursts]
    mode.loaded.append(await run_round(mode.target, bursts, counts.loaded, connections=counts.connections))
    mode.lone.append(await run_round(mode.target, bursts, plan.counts[Workload.CALLS].lone, connections=1))
    mode.paced.append(await run_round(mode.target, paced, plan.counts[paced].lone, connections=1))


def _row(mode: _Mode, off: _Mode) -> tuple[str, ...]:
    if mode is off:
        burst, paced = (
            f"0 ({Figure.of(map(_first_token_ms, rounds)).median:.2f} in all)" for rounds in (off.lone, off.paced)
        )
    else:
        burst, paced = _added_ms(mode.lone, off.lone), _added_ms(mode.paced, off.paced)
    pairs = zip(mode.loaded, off.loaded, strict=True)
    ratio = Figure.of(own.cpu_us() / other.cpu_us() for own, other in pairs)
    cpu_us = Figure.of(one.cpu_us() for one in mode.loaded).format(",.0f")
    return mode.target.kind, mode.name, burst, paced, cpu_us, "1" if mode is off else ratio.format(".2f")


def _added_ms(own: Sequence[Round], off: Sequence[Round]) -> str:
    pairs = zip(own, off, strict=True)
    return Figure.of(_first_token_ms(one) - _first_token_ms(other) for one, other in pairs).format(".2f")


def _first_token_ms(one: Round) -> float:
    return one.p50_ms(first_byte=True)
