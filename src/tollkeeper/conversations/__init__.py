"""What was said before: conversations that callers name, kept per user and bounded."""

from tollkeeper.conversations.memory import Conversation, Conversations

__all__ = ["Conversation", "Conversations"]
