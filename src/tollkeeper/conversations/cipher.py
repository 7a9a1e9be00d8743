"""Encrypts the texts of one user's conversations, each for its place. What older versions stored is plain text."""

from base64 import b64decode, b64encode

from tollkeeper.conversations.models import StoredConversation, StoredMessage
from tollkeeper.encryption.data_keys import DataKeys, Purpose
from tollkeeper.principal import Principal


class ConversationCipher:
    """Sealed texts are stored in base64, because the columns are texts."""

    def __init__(self, keys: DataKeys, owner: Principal) -> None:
        self._keys = keys
        self._begin = f"conversations/{owner.tenant_id}/{owner.user_id}"

    def seal_prompt(self, name: str, prompt: str) -> str:
        """The system prompt of the conversation of that name."""
        return self._seal(prompt, self._prompt_place(name))

    def read_prompt(self, stored: StoredConversation) -> str | None:
        """Raises SealBroken."""
        if stored.system_prompt is None or not stored.sealed:
            return stored.system_prompt
        return self._unseal(stored.system_prompt, self._prompt_place(stored.name))

    def seal_message(self, conversation_id: int, sequence: int, content: str) -> str:
        """A message, for its position in its conversation."""
        return self._seal(content, self._message_place(conversation_id, sequence))

    def read_message(self, stored: StoredMessage) -> str:
        """Raises SealBroken."""
        if not stored.sealed:
            return stored.content
        return self._unseal(stored.content, self._message_place(stored.conversation_id, stored.sequence))

    def _prompt_place(self, name: str) -> str:
        return f"{self._begin}/prompt/{name}"

    def _message_place(self, conversation_id: int, sequence: int) -> str:
        return f"{self._begin}/message/{conversation_id}/{sequence}"

    def _seal(self, text: str, place: str) -> str:
        return b64encode(self._keys.seal(Purpose.CONVERSATIONS, text.encode(), place)).decode()

    def _unseal(self, stored: str, place: str) -> str:
        return self._keys.unseal(Purpose.CONVERSATIONS, b64decode(stored), place).decode()
