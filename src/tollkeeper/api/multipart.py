"""Reads a form with one file (multipart/form-data, RFC 7578) while it is received, so that it is never in memory."""

from collections.abc import Iterable

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from tollkeeper.errors import InvalidRequest, UnsupportedMediaType

MAX_FIELDS = 20
MAX_FIELD_BYTES = 1_024
MAX_BOUNDARY_BYTES = 256
"""RFC 2046 allows 70."""


class MultipartReader:
    """Reads the parts of a form as they are received: those of `file_field` as they come, the others into `fields`."""

    def __init__(self, content_type: bytes, file_field: str) -> None:
        """Raises UnsupportedMediaType for another type of body."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 1 <= len(boundary) <= MAX_BOUNDARY_BYTES:
            raise UnsupportedMediaType("Send the file in a form: multipart/form-data.")
        self._file_field = file_field
        self._received: list[bytes] = []
        self._header_name = self._header_value = b""
        self._name: str | None = None
        self._value = bytearray()
        self._parts = 0
        self._is_complete = False
        self.fields: dict[str, str] = {}
        self.file_name: str | None = None
        """None while the file has not begun."""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_header_name,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._add_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def feed(self, body: bytes) -> bytes:
        """Read a part of the body. Returns what it has of the file. Raises InvalidRequest."""
        try:
            self._parser.write(body)
        except MultipartParseError:
            raise InvalidRequest("The body is not a valid form.") from None
        received = b"".join(self._received)
        self._received.clear()
        return received

    def finish(self, allowed_fields: Iterable[str]) -> None:
        """Raise InvalidRequest unless the form has ended, and has the file and no fields but these."""
        if not self._is_complete:
            raise InvalidRequest("The form has no end.")
        if self.file_name is None:
            raise InvalidRequest(f"The form has no {self._file_field}.", parameter=self._file_field)
        if not self.fields.keys() <= set(allowed_fields):
            raise InvalidRequest("The form has a field that this endpoint does not know.")

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_FIELDS:
            raise InvalidRequest("The form has too many fields.")
        self._name = None
        self._value.clear()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        name, value = self._header_name.lower(), self._header_value
        self._header_name = self._header_value = b""
        if name == b"content-disposition":
            kind, options = parse_options_header(value)
            if kind == b"form-data":
                self._read_disposition(options)
        if name == b"content-transfer-encoding" and value.strip().lower() not in (b"7bit", b"8bit", b"binary"):
            raise InvalidRequest("A field of the form has an encoding that this endpoint does not read.")

    def _read_disposition(self, options: dict[bytes, bytes]) -> None:
        try:
            self._name = options.get(b"name", b"").decode()
            file_name = options.get(b"filename", b"").decode()
        except UnicodeDecodeError:
            raise InvalidRequest("A field of the form has a name that is not UTF-8.") from None
        if self._name == self._file_field:
            if self.file_name is not None:
                raise InvalidRequest("The form has more than one file.", parameter=self._file_field)
            self.file_name = file_name

    def _end_headers(self) -> None:
        if not self._name or self._name in self.fields:
            raise InvalidRequest("The form has a field without a name, or one that is there twice.")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == self._file_field:
            self._received.append(data[start:end])
            return
        if len(self._value) + end - start > MAX_FIELD_BYTES:
            raise InvalidRequest("A field of the form is too long.")
        self._value += data[start:end]

    def _end_part(self) -> None:
        if self._name is None or self._name == self._file_field:
            return
        try:
            self.fields[self._name] = self._value.decode()
        except UnicodeDecodeError:
            raise InvalidRequest("A field of the form is not UTF-8.") from None

    def _end(self) -> None:
        self._is_complete = True
