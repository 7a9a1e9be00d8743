"""The errors of files and batches. `errors` shows the whole tree, and is where they are imported from."""

from tollkeeper.errors.base import TollkeeperError


class FileError(TollkeeperError):
    """A file cannot be stored, read or used."""


class FileTooLarge(FileError):
    code = "file_too_large"
    sentence = "The file is too large."

    def __init__(self, *, max_bytes: int) -> None:
        super().__init__(f"The file is too large: it may have {max_bytes:,} bytes. Split it.")


class FileMissing(FileError):
    code = "file_missing"
    sentence = "The file was deleted meanwhile."


class FileInUse(FileError):
    code = "file_in_use"
    sentence = "A batch that has not ended reads this file. Cancel the batch, or wait for its end."


class StorageFull(FileError):
    code = "storage_full"
    sentence = "The files of this tenant take all the space that it has. Delete some."

    def __init__(self, *, max_bytes: int) -> None:
        super().__init__(f"The files of this tenant would take more than its {max_bytes:,} bytes. Delete some.")


class LineTooLong(FileError):
    """`number` is the number of the line, from 1."""

    code = "line_too_long"

    def __init__(self, *, number: int, max_bytes: int) -> None:
        super().__init__(f"Line {number} is too long: it may have {max_bytes:,} bytes.")
        self.number = number


class BatchError(TollkeeperError):
    """A batch, or a line of one, ends without an answer."""


class TooManyBatches(BatchError):
    code = "too_many_batches"
    sentence = "You have too many batches that have not ended. Wait for one, or cancel one."


class BatchNotEnded(BatchError):
    code = "batch_not_ended"
    sentence = "The batch has not ended. Cancel it, or wait for its end."


class LineExpired(BatchError):
    code = "batch_expired"
    sentence = "This request could not be made before the batch expired."


class LineCancelled(BatchError):
    code = "batch_cancelled"
    sentence = "The batch was cancelled before this request was made."
