"""Receives a file that is uploaded, and stores it while it is received."""

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect, Request

from tollkeeper.api.dependencies import Services
from tollkeeper.api.middleware import BODY_TIMEOUT_S
from tollkeeper.api.multipart import MultipartReader
from tollkeeper.errors import BodyTooSlow, FileTooLarge, InvalidRequest, UnsupportedMediaType
from tollkeeper.files.models import Purpose, StoredFile
from tollkeeper.files.store import Upload
from tollkeeper.principal import Principal

UPLOAD_TIMEOUT_S = 1_800.0
"""For a whole file; each part of it must follow within BODY_TIMEOUT_S."""
FORM_BYTES = 64 * 1024
"""How much longer the body is than the file, at most."""
MAX_NAME_LENGTH = 255
MIN_LIFETIME_S, MAX_LIFETIME_S = 3_600, 2_592_000
"""As in OpenAI's API (reference, "Upload file", `expires_after`)."""
FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")


async def receive_file(services: Services, caller: Principal, request: Request) -> StoredFile:
    """Store the file of a form. What was stored of a file that is refused is deleted.

    Raises UnsupportedMediaType, FileTooLarge, StorageFull, BodyTooSlow, InvalidRequest, DatabaseUnavailable;
    ClientDisconnect.
    """
    reader = MultipartReader(request.headers.get("content-type", "").encode("latin-1"), "file")
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("Send the body without a Content-Encoding.")
    upload = await services.batches.files.begin(caller, Purpose.BATCH, _declared_bytes(services, request))
    try:
        async with asyncio.timeout(UPLOAD_TIMEOUT_S):
            await _receive(request, reader, upload)
        reader.finish(FIELDS)
        purpose, lifetime_s = _purpose(reader.fields), _lifetime_s(reader.fields)
        return await upload.finish(_file_name(reader), purpose, lifetime_s)
    except BaseException as error:
        await asyncio.shield(services.batches.files.delete(upload.file))
        if isinstance(error, TimeoutError):
            raise BodyTooSlow from None
        raise


async def _receive(request: Request, reader: MultipartReader, upload: Upload) -> None:
    """Raises TimeoutError."""
    further = 0
    more = True
    while more:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body, more = message.get("body", b""), message.get("more_body", False)
        received = reader.feed(body)
        further += len(body) - len(received)
        if further > FORM_BYTES:
            raise InvalidRequest("The form has too much beside the file.")
        await upload.write(received)


def _declared_bytes(services: Services, request: Request) -> int | None:
    """What the file may have by the length of the body. Raises FileTooLarge."""
    declared = request.headers.get("content-length", "")
    if not declared.isdigit():
        return None
    if int(declared[:20]) > services.batches.files.file_bytes + FORM_BYTES:
        raise FileTooLarge(max_bytes=services.batches.files.file_bytes)
    return min(int(declared), services.batches.files.file_bytes)


def _purpose(fields: dict[str, str]) -> Purpose:
    if fields.get("purpose") != Purpose.BATCH:
        raise InvalidRequest("The purpose must be: batch.", parameter="purpose")
    return Purpose.BATCH


def _lifetime_s(fields: dict[str, str]) -> int | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    is_number = seconds is not None and seconds.isascii() and seconds.isdigit() and len(seconds) <= 10
    if anchor != "created_at" or not is_number:
        raise InvalidRequest("expires_after has the anchor created_at, and seconds.", parameter="expires_after")
    return require_lifetime(int(seconds or 0), "expires_after")


def require_lifetime(seconds: int, parameter: str) -> int:
    """Raises InvalidRequest for a lifetime of a file that cannot be chosen."""
    if not MIN_LIFETIME_S <= seconds <= MAX_LIFETIME_S:
        raise InvalidRequest(
            f"{parameter}.seconds is between {MIN_LIFETIME_S} and {MAX_LIFETIME_S}.", parameter=parameter
        )
    return seconds


def _file_name(reader: MultipartReader) -> str:
    name = (reader.file_name or "").rpartition("/")[2] or "upload.jsonl"
    if len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise InvalidRequest(f"The file needs a name of at most {MAX_NAME_LENGTH} printable characters.")
    return name


def shown_file(services: Services, file: StoredFile) -> dict[str, Any]:
    """A file as OpenAI's API shows it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_ms // 1000,
        "expires_at": file.expires_ms // 1000,
        "filename": services.batches.files.contents.read_name(file),
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }
