"""Makes what stores files and batches."""

from tollkeeper.batches.service import Batches
from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.files.store import Files
from tollkeeper.settings import Settings


def make_batches(settings: Settings, database: Database, keys: DataKeys, clock: Clock) -> Batches:
    """The batches of all users, and their files, within the limits of the settings."""
    files = Files(
        database,
        keys,
        clock,
        tenant_bytes=settings.tenant_file_bytes,
        file_bytes=settings.max_file_bytes,
        days=settings.file_days,
    )
    return Batches(database, files, keys, clock)
