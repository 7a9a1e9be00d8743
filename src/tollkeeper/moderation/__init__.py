"""What a tenant does not permit in a text: the rules of its policy, what they find in a text, and placeholders for it.

Nothing here calls a model: `gateway/moderator.py` applies a policy to calls.
"""
