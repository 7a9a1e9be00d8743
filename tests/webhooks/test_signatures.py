"""Signatures are those of the Standard Webhooks specification."""

import base64

from tollkeeper.webhooks.signatures import new_secret, sign, signed_headers

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE, TIMESTAMP_S, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
"""github.com/standard-webhooks/standard-webhooks, libraries/python/tests/test_webhooks.py, `test_sign_function`."""


def test_the_published_example_is_signed_as_published() -> None:
    assert sign(SECRET, MESSAGE, TIMESTAMP_S, BODY) == SIGNATURE
    assert sign(SECRET.removeprefix("whsec_"), MESSAGE, TIMESTAMP_S, BODY) == SIGNATURE


def test_anything_else_has_another_signature() -> None:
    others = {
        sign(new_secret(), MESSAGE, TIMESTAMP_S, BODY),
        sign(SECRET, MESSAGE + "x", TIMESTAMP_S, BODY),
        sign(SECRET, MESSAGE, TIMESTAMP_S + 1, BODY),
        sign(SECRET, MESSAGE, TIMESTAMP_S, BODY + b" "),
    }
    assert len(others) == 4
    assert SIGNATURE not in others


def test_each_valid_secret_has_a_signature_in_one_header() -> None:
    other = new_secret()
    assert signed_headers([SECRET, other], MESSAGE, TIMESTAMP_S, BODY) == {
        "webhook-id": MESSAGE,
        "webhook-timestamp": "1614265330",
        "webhook-signature": f"{SIGNATURE} {sign(other, MESSAGE, TIMESTAMP_S, BODY)}",
    }


def test_secrets_are_random_and_as_long_as_the_specification_asks() -> None:
    made = {new_secret() for _ in range(10)}
    assert len(made) == 10
    assert {len(base64.b64decode(secret.removeprefix("whsec_"))) for secret in made} == {32}
