"""Encryption of what is stored: provider keys, second factors, conversations, stored responses."""
