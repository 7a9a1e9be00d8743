"""Moderates calls: the input before the cache and the reserve, the output before the settle."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import orjson

from tollkeeper.chat import ChatRequest, Completion, ToolResult
from tollkeeper.errors import ContentBlocked, InputError, InvalidRequest
from tollkeeper.gateway.call_events import ModerationEvent
from tollkeeper.gateway.call_guard import INPUT, OUTPUT, CallGuard
from tollkeeper.gateway.call_record import CallRecord
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.gateway.classifiers import Classifiers
from tollkeeper.gateway.moderated_text import mask
from tollkeeper.gateway.results import Outcome
from tollkeeper.moderation.patterns import TooDense
from tollkeeper.moderation.policies import Policies
from tollkeeper.moderation.policy import Rule
from tollkeeper.moderation.requests import answer_texts, change_answer, change_texts
from tollkeeper.moderation.scan import (
    Finding,
    TooManyFindings,
    first_block,
    redact_text,
    redactions,
    scan,
)
from tollkeeper.providers.base import CallInput, Wire
from tollkeeper.providers.input_texts import input_texts
from tollkeeper.worker_thread import run_by_size

BETWEEN_TEXTS = "\n\n"
TOO_DENSE = "The input has too much that the moderation of your tenant would have to replace. Send less of it."
NO_TEXTS = "The moderation of your tenant cannot read lists of tokens. Send texts."

CountFindings = Callable[[int, ModerationEvent], None]
"""Counts what a rule has found in a call of a tenant."""


class Moderator:
    """Applies the policies of tenants to their calls."""

    def __init__(self, policies: Policies, classifiers: Classifiers, count: CountFindings) -> None:
        self._policies = policies
        self._count = count
        self._classifiers = classifiers

    def applies_to(self, record: CallRecord) -> bool:
        """Whether the caller's tenant has a policy."""
        return self._policies.has(record.caller.tenant_id)

    async def guard(
        self, record: CallRecord, call: ModelCall, *, shows_parts: bool, may_repeat: bool, is_made_later: bool = False
    ) -> ModelCall:
        """The call with its guard, if any rule applies to it, and with its input redacted.

        `may_repeat`: a stored response may answer the call, so that a refusal waits until `admit`, and so do the
        classifiers. `is_made_later`: the call is checked again when it is made, so that only what refuses it is counted
        now.

        Raises ContentBlocked, ModerationUnavailable, InvalidRequest; InputError for an input that cannot be redacted.
        """
        surfaces = (call.surface,) if call.serves is None else (call.surface, call.serves)
        policy = await self._policies.of(record.caller.tenant_id, *surfaces)
        if policy is None:
            return call

        again = await self._found_again(record, call)

        def note(event: ModerationEvent) -> None:
            ends_call = event.enforced and event.action == "block"
            if event.rule in again and not ends_call:
                return
            record.moderated(event)
            if not is_made_later or ends_call:
                self._count(record.caller.tenant_id, event)

        guard = CallGuard(policy, call.input, note, shows_parts=shows_parts)
        changed = await run_by_size(policy.work_on(call.input.size), _moderated_input, guard, call)
        if not may_repeat:
            await self.admit(record, guard)
        return replace(call, input=changed, guard=guard)

    async def _found_again(self, record: CallRecord, call: ModelCall) -> frozenset[str]:
        """The rules of which the call that this one is made for notes what they find: its input has this one's."""
        if call.serves is None:
            return frozenset()
        policy = await self._policies.of(record.caller.tenant_id, call.serves)
        if policy is None:
            return frozenset()
        rules = (*policy.input_rules, *(one.rule for one in policy.input_classifiers))
        return frozenset(rule.name for rule in rules)

    async def admit(self, record: CallRecord, guard: CallGuard) -> None:
        """Let the input through. Raises ContentBlocked, ModerationUnavailable."""
        if guard.refusal is not None:
            raise guard.refusal
        if guard.is_classified or not guard.policy.input_classifiers:
            return
        guard.is_classified = True
        for classifier in guard.policy.input_classifiers:
            judged = _all_text if classifier.document.history else _new_text
            text = await run_by_size(guard.original.size, judged, guard.original)
            if await self._classifiers.finds(record, guard.policy, classifier, text):
                guard.note_rule(INPUT, classifier.rule)
                if classifier.rule.is_enforced:
                    raise ContentBlocked(classifier.rule.name)

    async def check_answer(self, record: CallRecord, guard: CallGuard, outcome: Outcome) -> Outcome:
        """The outcome with what may be sent of an answer, which is whole, or was sent as it came.

        Raises ContentBlocked, ModerationUnavailable.
        """
        if outcome.cut_short or not guard.policy.checks_output:
            return outcome
        given = outcome.read()
        size = len(given.text) + len(given.reasoning or "")
        completion = await run_by_size(size, _moderated_answer, guard, given)
        if (rule := await self.judge(record, guard, completion)) is not None:
            raise ContentBlocked(rule.name, of_answer=True)
        return outcome if completion is given else outcome._replace(read=lambda: completion)

    async def judge(self, record: CallRecord, guard: CallGuard, completion: Completion) -> Rule | None:
        """The classifiers' rule that blocks an answer. Raises ModerationUnavailable."""
        if not guard.policy.output_classifiers:
            return None
        text = BETWEEN_TEXTS.join(answer_texts(completion))
        for classifier in guard.policy.output_classifiers:
            if await self._classifiers.finds(record, guard.policy, classifier, text):
                guard.note_rule(OUTPUT, classifier.rule)
                if classifier.rule.is_enforced:
                    return classifier.rule
        return None


def _moderated_input(guard: CallGuard, call: ModelCall) -> CallInput:
    """The input as the provider may receive it. A refusal is noted in the guard."""
    policy, given = guard.policy, call.input
    rules = policy.input_rules
    try:
        found = scan(rules, BETWEEN_TEXTS.join(_input_texts(given, is_checked=_is_enforced(rules))))
        guard.note_findings(INPUT, found)
        if (blocked := first_block(found)) is not None:
            guard.refusal = ContentBlocked(blocked.rule.name)
            return given
        if redactions(found):
            return _redacted(guard, given)
    except (TooDense, TooManyFindings):
        raise InvalidRequest(TOO_DENSE) from None
    if policy.holds_back and given.raw is not None and not call.without_output:
        return _translated(given, given.chat_request)  # an answer that may be changed is written here
    return given


def _redacted(guard: CallGuard, given: CallInput) -> CallInput:
    change = partial(_redact, guard)
    if given.raw is not None and given.raw.wire is Wire.EMBEDDINGS:
        fields = dict(given.raw.fields)
        fields["input"] = orjson.dumps(_changed_items(orjson.loads(fields["input"]), change))
        return CallInput(
            given.read_request, given.raw._replace(fields=fields), given.choices, given.size, given.dropped
        )
    return _translated(given, change_texts(given.chat_request, change))


def _redact(guard: CallGuard, text: str) -> str:
    return redact_text(guard.policy.input_rules, text, guard.placeholders.token_for)


def _changed_items(value: Any, change: Any) -> Any:
    """The input of an embeddings request, which is a text or a list of texts, with its texts changed."""
    return change(value) if isinstance(value, str) else [change(one) for one in value]


def _translated(given: CallInput, request: ChatRequest) -> CallInput:
    """The input in our own form, so that the answer is in it, too."""
    if given.choices > 1:
        raise InvalidRequest("The moderation of your tenant checks one answer. Leave n out.", parameter="n")
    return CallInput(lambda: request, None, given.choices, given.size, given.dropped)


def _input_texts(given: CallInput, *, is_checked: bool) -> Sequence[str]:
    """All texts of an input. Raises InvalidRequest for an embeddings input that has none, if it `is_checked`."""
    if given.raw is None or given.raw.wire is not Wire.EMBEDDINGS:
        return input_texts(given)()
    value = orjson.loads(given.raw.fields["input"])
    items = [value] if isinstance(value, str) else value
    texts = [one for one in items if isinstance(one, str)]
    if is_checked and len(texts) < len(items):
        raise InvalidRequest(NO_TEXTS, parameter="input")
    return texts


def _is_enforced(rules: Sequence[Rule]) -> bool:
    return any(rule.is_enforced for rule in rules)


def _all_text(given: CallInput) -> str:
    return BETWEEN_TEXTS.join(_input_texts(given, is_checked=True))


def _new_text(given: CallInput) -> str:
    """What a request adds to a conversation: the texts after its last answer. All texts, where that is not known, and
    where the request ends with an answer that the model is to continue.
    """
    try:
        messages = given.chat_request.messages if given.raw is None or given.raw.wire is not Wire.EMBEDDINGS else ()
    except InputError:
        messages = ()
    if not messages or messages[-1].role == "assistant":
        return _all_text(given)
    answers = [place for place, message in enumerate(messages) if message.role == "assistant"]
    added = messages[answers[-1] + 1 :] if answers else messages
    texts = [
        part.content if isinstance(part, ToolResult) else part
        for message in added
        for part in message.parts
        if isinstance(part, str | ToolResult)
    ]
    return BETWEEN_TEXTS.join(texts)


def _moderated_answer(guard: CallGuard, completion: Completion) -> Completion:
    """The answer as the caller may receive it. Raises ContentBlocked."""
    rules = guard.policy.output_rules
    found: list[Finding] = []
    try:
        for text in answer_texts(completion) if rules else ():
            found += scan(rules, text)
    except (TooDense, TooManyFindings):
        raise ContentBlocked(rules[0].name, of_answer=True) from None
    guard.note_findings(OUTPUT, found)
    if (blocked := first_block(found)) is not None:
        raise ContentBlocked(blocked.rule.name, of_answer=True)
    if not redactions(found):
        return completion
    return change_answer(completion, lambda text: redact_text(rules, text, mask))
