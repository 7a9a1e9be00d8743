"""A call whose answer is read as a whole."""

from tollkeeper.chat import Completion
from tollkeeper.errors import ProviderError
from tollkeeper.gateway.candidate import Candidate, InputCount
from tollkeeper.gateway.results import Outcome
from tollkeeper.gateway.usage_reports import set_usage
from tollkeeper.providers.base import BilledFailure
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.models import Basis


async def call_once(reservation: Reservation, candidate: Candidate) -> Outcome:
    """Call the provider once, and report to the reservation what it used; where that is unknown, the counted input.

    Raises ProviderError.
    """
    prepared, provider = candidate.prepared, candidate.model.provider
    input_count = InputCount(candidate)

    async def measure() -> tuple[int, int]:
        return await input_count.tokens(), 0

    reservation.measure = measure
    try:
        completion = await provider.complete(prepared, candidate.output_limit(reservation.granted_output))
    except BilledFailure as error:
        await set_usage(reservation, candidate, error.usage, measure, has_output=False)
        raise
    except ProviderError as error:
        if error.billed:
            reservation.checkpoint = await measure()
        raise
    text = _text_of(completion)

    async def count() -> tuple[int, int]:
        return await input_count.tokens(), await provider.count_output(text)

    has_output = bool(text or completion.tool_calls)
    usage, basis = await set_usage(reservation, candidate, completion.usage, count, has_output=has_output)
    if usage is not completion.usage:
        completion = completion._replace(usage=usage)
    granted_output = reservation.granted_output
    allowed_output = granted_output if basis is Basis.PROVIDER else candidate.allowed_output(granted_output)
    if usage.output_tokens - usage.reasoning_tokens > allowed_output and not candidate.call.without_output:
        completion = await _shortened(candidate, completion, granted_output)
    return Outcome(candidate, lambda: completion)


def _text_of(completion: Completion) -> str:
    """All text that the model wrote, whatever kind of text it is."""
    texts = [completion.text, completion.reasoning or ""]
    if completion.refusal is not None and completion.refusal != completion.text:
        texts.append(completion.refusal)
    texts += [part for call in completion.tool_calls for part in (call.name, call.arguments)]
    return "".join(texts)


async def _shortened(candidate: Candidate, completion: Completion, max_output: int) -> Completion:
    """The completion with its text cut to `max_output` tokens."""
    text = await candidate.model.provider.truncate_output(completion.text, max_output)
    refusal = text if completion.refusal == completion.text else completion.refusal
    return completion._replace(text=text, refusal=refusal, finish_reason="length", raw=None)
