"""Conversations that callers name: stored per user, and limited in number and size."""

from tollkeeper.conversations.service import Conversation, Conversations

__all__ = ["Conversation", "Conversations"]
