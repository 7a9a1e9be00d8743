"""Which documents a search sees: the condition in the WHERE clause of each search, with its parameters."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement
from sqlmodel import and_, col

from tollkeeper.principal import Principal
from tollkeeper.retrieval.models import SHARED, Document, DocumentChunk, DocumentStatus, DocumentVectors

Table = type[DocumentChunk] | type[DocumentVectors]


@dataclass(frozen=True, slots=True)
class Visible:
    """The documents of the reader, and those that are shared in the reader's tenant; of them only these `documents`,
    if there are any.
    """

    reader: Principal
    documents: tuple[str, ...] = ()

    @property
    def owners(self) -> Sequence[int]:
        return (SHARED, self.reader.user_id)

    def of_document(self) -> ColumnElement[bool]:
        """The condition on a row of a document."""
        visible = and_(col(Document.tenant_id) == self.reader.tenant_id, col(Document.owner_id).in_(self.owners))
        visible = and_(visible, col(Document.status) != DocumentStatus.DELETING.value)
        return and_(visible, col(Document.id).in_(self.documents)) if self.documents else visible

    def of_part(self, table: Table) -> ColumnElement[bool]:
        """The condition on a row of a part of a document."""
        visible = and_(col(table.tenant_id) == self.reader.tenant_id, col(table.owner_id).in_(self.owners))
        return and_(visible, col(table.document_id).in_(self.documents)) if self.documents else visible
