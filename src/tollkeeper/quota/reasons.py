"""Explains the cost of a charge to its user."""

from tollkeeper.quota.rules.models import Basis, Charge, ChargeState, EntryKind


def reason(charge: Charge) -> str:
    """Explains the cost of a charge to its user."""
    if charge.state == ChargeState.RESERVED.value:
        return "Reserved; nothing has been sent to the provider yet."
    if charge.state == ChargeState.DISPATCHED.value:
        return "In flight: the hold stands until the provider has answered."
    sentence = _REASONS[Basis(charge.basis or Basis.NONE.value)]
    if charge.basis == Basis.UNKNOWN.value:
        if charge.closed_by == EntryKind.EXPIRE.value:
            sentence = "The process that made the call was lost: what was known of it is charged, the rest is forgiven."
        elif charge.forgiven_tokens == 0 and charge.cost_tokens == charge.held_tokens:
            sentence = "The outcome is unknown and the forgiveness of this window is used up: the hold is charged."
    if charge.adjusted:
        sentence += " It was known only after the lease was over, and booked as an adjustment."
    if charge.overrun:
        sentence += " It cost more than was held, and is booked in full as an overrun."
    if charge.refunded:
        sentence += " It was refunded."
    return sentence


_REASONS = {
    Basis.PROVIDER: "Charged as the provider reported.",
    Basis.COUNTED: (
        "No believable usage was reported, or the call ended before the report: the text was counted, at most the hold."
    ),
    Basis.UNKNOWN: "The outcome is unknown: the input is charged, the rest is forgiven.",
    Basis.NONE: "Nothing was billed, so the hold was given back.",
    Basis.CACHE: "Answered without the provider.",
}
