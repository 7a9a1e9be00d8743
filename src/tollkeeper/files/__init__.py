"""Files of users: what they upload, and what is written for them. They are stored encrypted, in chunks."""
