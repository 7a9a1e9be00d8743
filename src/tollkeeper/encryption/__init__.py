"""Encryption of what is stored: provider keys, second factors, conversations, contents, jobs, stored responses."""
