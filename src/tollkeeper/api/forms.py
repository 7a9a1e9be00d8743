"""Forms: bodies of OAuth2 clients (WHATWG URL, application/x-www-form-urlencoded)."""

from urllib.parse import parse_qsl

from tollkeeper.errors import InvalidRequest

FORM = "application/x-www-form-urlencoded"
MAX_FIELDS = 10


def fields_of(body: bytes) -> dict[str, str]:
    """The fields of a form. Raises InvalidRequest."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise InvalidRequest("The form is not UTF-8, or has too many fields.") from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise InvalidRequest("The form has a field twice.")
    return fields
