"""Stored responses are sealed for their caller and key; those of older versions are plain; long ones are not stored."""

from typing import Any

import pytest

from support.encryption import make_data_keys
from tollkeeper.errors import PreviousAttemptInterrupted
from tollkeeper.gateway.results import IdempotentCall
from tollkeeper.gateway.stored_responses import StoredResponses
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.rules.idempotency_keys import MAX_STORED_BYTES, KeyedRequest, StoredResponse
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import ClosedCharge, Replayed

CALLER = Principal(3, 2, Role.MEMBER, 0)
RESULT: Any = None


def charge() -> ClosedCharge:
    fields: dict[str, Any] = dict.fromkeys(ClosedCharge._fields)
    return ClosedCharge(**fields | {"charge_id": "chg_1", "basis": Basis.PROVIDER})


def idempotent(response: StoredResponse | None, key: str = "k") -> IdempotentCall:
    return IdempotentCall(KeyedRequest(key, "f"), lambda _: response)


def seal(responses: StoredResponses, response: StoredResponse | None, key: str = "k") -> StoredResponse | None:
    return responses.sealed(CALLER, idempotent(response, key), lambda _: RESULT)(charge())


def open_(responses: StoredResponses, response: StoredResponse, caller: Principal = CALLER, key: str = "k") -> bytes:
    replayed = Replayed("chg_2", (), response)
    return responses.open(caller, idempotent(None, key), replayed).response.body


@pytest.mark.parametrize("body", [b"", b"{}", b"data: [DONE]\n\n", b"x" * MAX_STORED_BYTES])
def test_what_is_sealed_is_opened_for_the_same_caller_and_key_only(body: bytes) -> None:
    responses = StoredResponses(make_data_keys())
    sealed = seal(responses, StoredResponse(200, "application/json", body))
    assert sealed is not None
    assert sealed.fits_row
    assert body not in sealed.body or not body
    assert open_(responses, sealed) == body
    for caller, key in ((Principal(4, 2, Role.MEMBER, 0), "k"), (Principal(3, 1, Role.MEMBER, 0), "k"), (CALLER, "j")):
        with pytest.raises(PreviousAttemptInterrupted):
            open_(responses, sealed, caller, key)


def test_a_response_that_is_too_long_or_was_not_recorded_is_not_stored() -> None:
    responses = StoredResponses(make_data_keys())
    assert seal(responses, None) is None
    assert seal(responses, StoredResponse(200, "application/json", b"x" * (MAX_STORED_BYTES + 1))) is None


def test_a_response_that_an_older_version_stored_is_returned_as_it_is() -> None:
    body = b'{"answer": "old"}'
    assert open_(StoredResponses(make_data_keys()), StoredResponse(200, "application/json", body)) == body
