"""Finds passages for a question: it is embedded, which is charged to the caller, and compared with the documents."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.documents import repository
from tollkeeper.documents.embedding import Embedder
from tollkeeper.errors import DocumentsOff, NotFound
from tollkeeper.gateway.call_record import CallRecord
from tollkeeper.principal import Principal
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.retrieval.models import UseKind
from tollkeeper.retrieval.search import DocumentSearch, Passage, Question
from tollkeeper.retrieval.uses import Places, note_uses
from tollkeeper.retrieval.visibility import Visible
from tollkeeper.tenant_scope import TenantScope

MAX_QUESTION_CHARACTERS = 8_000
"""Of a question, the last characters that are embedded: about 2,000 tokens. Models take 512 to 8,191."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What to find: at most `top_k` passages for a text, in these documents only, if there are any."""

    text: str
    top_k: int
    min_score: float | None = None
    documents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The passages, the best first, and the charge of the question's vector."""

    passages: Sequence[Passage]
    charge_id: str
    balances: Sequence[Balance]


class Retriever:
    """Searches the documents of callers. Without an `embedder`, documents are off. `searches` counts."""

    def __init__(self, database: Database, embedder: Embedder | None, search: DocumentSearch, clock: Clock) -> None:
        self._database = database
        self._embedder = embedder
        self._search = search
        self._clock = clock
        self.searches = 0

    @property
    def is_on(self) -> bool:
        return self._embedder is not None

    async def note_job(self, user: Principal, passages: Collection[Passage], job_id: str) -> bool:
        """Note that a job has the text of passages. Returns whether their documents are all still there."""
        documents = {one.document_id for one in passages}
        async with self._database.session(TenantScope(user.tenant_id)) as session:
            places = ((UseKind.JOB, job_id),)
            return await note_uses(session, user, documents, places, self._clock.now_ms()) == documents

    async def retrieve(
        self,
        record: CallRecord,
        surface: str,
        wanted: Retrieval,
        keyed: KeyedRequest | None = None,
        places: Places = (),
        serves: str | None = None,
    ) -> Retrieved:
        """The passages for the record's caller. The same key is charged once. `places` are where their text will be
        kept: a deletion of the document finds them. `serves` is the surface of the call that they are for.

        Raises DocumentsOff, NotFound for a document that the caller cannot see, and what a call raises.
        """
        if self._embedder is None:
            raise DocumentsOff
        visible, scope = Visible(record.caller, wanted.documents), TenantScope(record.caller.tenant_id)
        if wanted.documents:
            async with self._database.session(scope) as session:
                if await repository.visible_among(session, visible) != set(wanted.documents):
                    raise NotFound("There is no such document among those that you may read.")
        text = wanted.text[-MAX_QUESTION_CHARACTERS:]
        embedded = await self._embedder.embed(record, surface, [text], keyed=keyed, serves=serves)
        question = Question(text, embedded.model, embedded.vectors[0], wanted.top_k, wanted.min_score)
        async with self._database.session(scope) as session:
            passages = await self._search.find(session, visible, question)
            if places and passages:
                documents = {one.document_id for one in passages}
                present = await note_uses(session, record.caller, documents, places, self._clock.now_ms())
                passages = [one for one in passages if one.document_id in present]
        self.searches += 1
        return Retrieved(passages, embedded.charge_id, embedded.balances)


def key_for_question(keyed: KeyedRequest | None) -> KeyedRequest | None:
    """The idempotency key of the question's vector, for a request with this key that is more than a search."""
    if keyed is None:
        return None
    return KeyedRequest("retrieve-" + hashlib.sha256(keyed.key.encode()).hexdigest(), keyed.fingerprint)
