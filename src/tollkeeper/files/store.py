"""Stores files: received part by part, and read chunk by chunk, so that no file is in memory as a whole."""

from collections.abc import AsyncGenerator, Sequence

from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import FileMissing, FileTooLarge, StorageFull
from tollkeeper.files import repository
from tollkeeper.files.contents import FileContents
from tollkeeper.files.models import FileChunk, FileStatus, Purpose, StoredFile
from tollkeeper.principal import Principal
from tollkeeper.quota.time_sorted_ids import new_id
from tollkeeper.tenant_scope import TenantScope

CHUNK_BYTES = 256 * 1024
"""An uploaded chunk. A commit of this size keeps SQLite's write lock for about a millisecond."""
MAX_FILES_OF_TENANT = 10_000
DELETED_AT_ONCE = 16
"""Chunks that one transaction deletes."""
DAY_MS = 86_400_000


def new_file_id() -> str:
    """A new id, as those of OpenAI: `file-` and hex. Ids sort by their time."""
    return new_id("file").replace("_", "-")


class Files:
    """The files of all users. Those of a tenant have at most `tenant_bytes`, and an uploaded one `file_bytes`.

    They are deleted `days` after they are complete, unless their user wants that earlier.
    """

    def __init__(
        self,
        database: Database,
        keys: DataKeys,
        clock: Clock,
        *,
        tenant_bytes: int,
        file_bytes: int,
        days: float,
    ) -> None:
        self._database = database
        self._clock = clock
        self._tenant_bytes = tenant_bytes
        self.file_bytes = file_bytes
        self.lifetime_ms = int(days * DAY_MS)
        self.contents = FileContents(keys)

    async def begin(self, owner: Principal, purpose: Purpose, declared_bytes: int | None) -> "Upload":
        """Begin to store a file of at most `declared_bytes`; or of the largest size, where the client declares none.

        Raises FileTooLarge, StorageFull, DatabaseUnavailable.
        """
        size = self.file_bytes if declared_bytes is None else declared_bytes
        if size > self.file_bytes:
            raise FileTooLarge(max_bytes=self.file_bytes)
        file = self.new_file(owner.tenant_id, owner.user_id, purpose, FileStatus.UPLOADING)
        file.bytes = size
        async with self._database.session(TenantScope(owner.tenant_id)) as session:
            await repository.lock_space(session, owner.tenant_id)
            session.add(file)
            await session.flush()
            stored_bytes, count = await repository.stored_space(session, owner.tenant_id)
            if stored_bytes > self._tenant_bytes or count > MAX_FILES_OF_TENANT:
                raise StorageFull(max_bytes=self._tenant_bytes)
        return Upload(self._database, self.contents, file, self._clock, self.lifetime_ms)

    def new_file(self, tenant_id: int, user_id: int, purpose: Purpose, status: FileStatus) -> StoredFile:
        """The row of an empty file, which is not stored yet."""
        now_ms = self._clock.now_ms()
        return StoredFile(
            tenant_id=tenant_id,
            id=new_file_id(),
            user_id=user_id,
            purpose=purpose.value,
            status=status.value,
            name=b"",
            bytes=0,
            chunks=0,
            created_ms=now_ms,
            expires_ms=now_ms + self.lifetime_ms,
        )

    def append(self, session: AsyncSession, file: StoredFile, content: bytes) -> None:
        """Add a chunk to a file that this transaction alone changes."""
        end = file.bytes + len(content)
        sealed = self.contents.seal_chunk(file, file.chunks, content)
        session.add(_chunk(file, file.chunks, file.bytes, end, sealed))
        file.bytes, file.chunks = end, file.chunks + 1

    async def read(self, file: StoredFile, start: int = 0) -> AsyncGenerator[bytes]:
        """The content of a file from this byte on, chunk by chunk. No transaction is open between two of them.

        Raises FileMissing if the file was deleted meanwhile; DatabaseUnavailable, SealBroken.
        """
        while start < file.bytes:
            async with self._database.session(TenantScope(file.tenant_id)) as session:
                chunk = await repository.read_chunk(session, file, start)
            if chunk is None:
                raise FileMissing
            content = self.contents.read_chunk(file, chunk.number, chunk.content)
            yield content[start - chunk.starts_at :]
            start = chunk.ends_at

    async def find(self, owner: Principal, file_id: str, purposes: Sequence[str]) -> StoredFile | None:
        """The user's complete file of this id, if it is for one of these purposes."""
        async with self._database.session(TenantScope(owner.tenant_id)) as session:
            return await repository.find(session, owner, file_id, purposes)

    async def delete(self, file: StoredFile) -> bool:
        """Delete a file. Returns whether this has hidden it: its chunks are then deleted, a few per transaction."""
        scope = TenantScope(file.tenant_id)
        async with self._database.session(scope) as session:
            is_hidden = await repository.mark_deleted(session, file)
        deleted = DELETED_AT_ONCE
        while deleted:
            async with self._database.session(scope) as session:
                deleted = await repository.delete_chunks(session, file, DELETED_AT_ONCE)
        return is_hidden


class Upload:
    """A file that is being received. What was received is stored whenever it fills a chunk."""

    def __init__(
        self, database: Database, contents: FileContents, file: StoredFile, clock: Clock, lifetime_ms: int
    ) -> None:
        self._database = database
        self._contents = contents
        self._clock = clock
        self._lifetime_ms = lifetime_ms
        self._buffer = bytearray()
        self._stored = 0
        self.file = file

    async def write(self, content: bytes) -> None:
        """Raises FileTooLarge, DatabaseUnavailable."""
        if self._stored + len(self._buffer) + len(content) > self.file.bytes:
            raise FileTooLarge(max_bytes=self.file.bytes)
        self._buffer += content
        while len(self._buffer) >= CHUNK_BYTES:
            await self._store(bytes(self._buffer[:CHUNK_BYTES]))
            del self._buffer[:CHUNK_BYTES]

    async def finish(self, name: str, purpose: Purpose, expires_after_s: int | None = None) -> StoredFile:
        """Complete the file. Raises DatabaseUnavailable; FileMissing if it was deleted meanwhile."""
        if self._buffer:
            await self._store(bytes(self._buffer))
            self._buffer.clear()
        lifetime_ms = self._lifetime_ms if expires_after_s is None else min(expires_after_s * 1000, self._lifetime_ms)
        async with self._database.session(TenantScope(self.file.tenant_id)) as session:
            file = await session.get(StoredFile, (self.file.tenant_id, self.file.id))
            if file is None or file.status != FileStatus.UPLOADING:
                raise FileMissing
            file.bytes, file.purpose, file.status = self._stored, purpose.value, FileStatus.READY.value
            file.name = self._contents.seal_name(file, name)
            file.expires_ms = self._clock.now_ms() + lifetime_ms
        return file

    async def _store(self, content: bytes) -> None:
        end = self._stored + len(content)
        sealed = self._contents.seal_chunk(self.file, self.file.chunks, content)
        async with self._database.session(TenantScope(self.file.tenant_id)) as session:
            session.add(_chunk(self.file, self.file.chunks, self._stored, end, sealed))
        self.file.chunks, self._stored = self.file.chunks + 1, end


def _chunk(file: StoredFile, number: int, start: int, end: int, sealed: bytes) -> FileChunk:
    return FileChunk(
        tenant_id=file.tenant_id, file_id=file.id, number=number, starts_at=start, ends_at=end, content=sealed
    )
