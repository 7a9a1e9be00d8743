"""Encrypts the responses that are stored for idempotency keys. The ledger stores bytes, and does not know which."""

from collections.abc import Callable

import structlog

from tollkeeper.encryption.data_keys import DataKeys, Purpose
from tollkeeper.errors import PreviousAttemptInterrupted, SealBroken
from tollkeeper.gateway.results import CallResult, IdempotentCall
from tollkeeper.principal import Principal
from tollkeeper.quota.rules.idempotency_keys import StoredResponse
from tollkeeper.quota.rules.operations import ClosedCharge, Replayed

log = structlog.get_logger("tollkeeper.call")


class StoredResponses:
    """Seals responses for the caller and the idempotency key that they belong to, and opens them again."""

    def __init__(self, keys: DataKeys) -> None:
        self._keys = keys

    def sealed(
        self, caller: Principal, idempotent: IdempotentCall, result_of: Callable[[ClosedCharge], CallResult]
    ) -> Callable[[ClosedCharge], StoredResponse | None]:
        """What renders the response of a call, encrypted; None for one that is too long to be stored."""
        place = _place(caller, idempotent)

        def render(charge: ClosedCharge) -> StoredResponse | None:
            response = idempotent.render(result_of(charge))
            if response is None:
                return None
            if not response.is_storable:
                log.warning("call.response_not_stored", charge_id=charge.charge_id)
                return None
            return response._replace(body=self._keys.seal(Purpose.RESPONSES, response.body, place))

        return render

    def open(self, caller: Principal, idempotent: IdempotentCall, replayed: Replayed) -> Replayed:
        """The response in plain text. Versions before encryption have stored it so.

        Raises PreviousAttemptInterrupted for one that cannot be decrypted: the call was made, its response is lost.
        """
        response = replayed.response
        if not DataKeys.is_sealed(response.body):
            return replayed
        try:
            body = self._keys.unseal(Purpose.RESPONSES, response.body, _place(caller, idempotent))
        except SealBroken:
            log.error("call.stored_response_unreadable", charge_id=replayed.charge_id)
            raise PreviousAttemptInterrupted from None
        return replayed._replace(response=response._replace(body=body))


def _place(caller: Principal, idempotent: IdempotentCall) -> str:
    return f"idempotency_keys/{caller.tenant_id}/{caller.user_id}/{idempotent.keyed_request.key}"
