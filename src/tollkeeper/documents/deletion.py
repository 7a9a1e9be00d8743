"""Deletes the parts of a document that is not shown any more."""

from tollkeeper.database.engine import Database
from tollkeeper.documents import repository
from tollkeeper.documents.copies import Copies
from tollkeeper.retrieval.models import Document


async def delete_parts(database: Database, copies: Copies, document: Document) -> bool:
    """Delete the copies of a document's text, its parts, and its row, in several transactions. Returns False if a call
    in flight may still store a copy: then the row stays, and this is to be called again.

    Raises DatabaseUnavailable.
    """
    is_empty = False
    while not is_empty:
        async with database.session() as session:
            is_empty = await repository.delete_some(session, document)
    if not await copies.delete(document):
        return False
    async with database.session() as session:
        await repository.finish_deletion(session, document)
    return True
