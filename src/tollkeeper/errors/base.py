"""The base of all errors of the domain, which `errors` shows as one tree."""

from typing import ClassVar


class TollkeeperError(Exception):
    """Base of all errors. `detail` is for people, and safe to show to the caller; without one it is the sentence."""

    code: ClassVar[str] = "internal_error"
    sentence: ClassVar[str] = "Something went wrong."

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail or self.sentence)
        self.detail = detail or self.sentence
