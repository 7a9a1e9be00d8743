"""Why the server closes a WebSocket: the standard codes of RFC 6455 and IANA's registry, and our own from 4400 on."""

NOT_TEXT, TOO_BAD, TOO_LARGE, GOING_AWAY, TRY_LATER = 1003, 1008, 1009, 1012, 1013
NOT_AUTHENTICATED, FORBIDDEN, AUTH_TIMEOUT, TOO_FAST = 4401, 4403, 4408, 4429
