"""What moderates one call: the rules that apply to it, and the placeholders of what they have redacted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tollkeeper.chat import Completion
from tollkeeper.errors import ContentBlocked
from tollkeeper.gateway.call_events import ModerationEvent
from tollkeeper.gateway.listener import Listener
from tollkeeper.gateway.restored_stream import RestoringListener
from tollkeeper.moderation.placeholders import Placeholders
from tollkeeper.moderation.policy import Rule, SurfacePolicy
from tollkeeper.moderation.requests import change_answer
from tollkeeper.moderation.scan import Finding, count_by_rule
from tollkeeper.providers.base import CallInput

INPUT, OUTPUT = "input", "output"


@dataclass(slots=True, eq=False)
class CallGuard:
    """The moderation of one call. `original` is the input as the caller sent it, and `note` receives what is found.

    `refusal`: a rule blocks the input, which is raised once it is known that no stored response answers the call.
    `is_classified`: the classifiers have judged the input. `shows_parts`: the caller sees an answer while it is made.
    """

    policy: SurfacePolicy
    original: CallInput
    note: Callable[[ModerationEvent], None]
    placeholders: Placeholders = field(default_factory=Placeholders)
    refusal: ContentBlocked | None = None
    is_classified: bool = False
    shows_parts: bool = False
    _restoring: RestoringListener | None = None

    def restoring(self, listener: Listener) -> Listener:
        """The listener; behind what restores the stream, if anything was redacted."""
        if not self.placeholders:
            return listener
        self._restoring = RestoringListener(listener, self.placeholders)
        return self._restoring

    async def end_stream(self) -> None:
        """Send the end of the stream, which has waited for more."""
        if self._restoring is not None:
            await self._restoring.finish()

    def note_findings(self, stage: str, found: Sequence[Finding]) -> None:
        """Note what rules have found, rule by rule."""
        by_name = {one.rule.name: one.rule for one in found}
        for name, count in count_by_rule(found).items():
            self.note_rule(stage, by_name[name], count)

    def note_rule(self, stage: str, rule: Rule, count: int = 1) -> None:
        self.note(ModerationEvent(rule.name, rule.kind, stage, rule.action, rule.is_enforced, count))

    def restored(self, completion: Completion) -> Completion:
        """The answer with the caller's own values in place of their placeholders."""
        if not self.placeholders or completion.raw is not None:  # a forwarded answer is that to no changed text
            return completion
        return change_answer(completion, self.placeholders.restore)
