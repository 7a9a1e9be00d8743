"""Encrypts the URL and the secrets of a webhook, each for its place."""

from tollkeeper.encryption.data_keys import DataKeys, Purpose
from tollkeeper.webhooks.models import Webhook


class WebhookSecrets:
    """Seals and opens what a webhook's row has encrypted. Reading raises SealBroken."""

    def __init__(self, keys: DataKeys) -> None:
        self._keys = keys

    def set_url(self, webhook: Webhook, url: str) -> None:
        webhook.sealed_url = self._keys.seal(Purpose.WEBHOOKS, url.encode(), _place(webhook, "url"))

    def url(self, webhook: Webhook) -> str:
        return self._keys.unseal(Purpose.WEBHOOKS, webhook.sealed_url, _place(webhook, "url")).decode()

    def set_secret(self, webhook: Webhook, secret: str) -> None:
        webhook.sealed_secret = self._keys.seal(Purpose.WEBHOOKS, secret.encode(), _place(webhook, "secret"))

    def replace_secret(self, webhook: Webhook, secret: str, previous_until_ms: int | None) -> None:
        """Sign with another secret from now on, and with the present one, too, until this time."""
        webhook.sealed_previous, webhook.previous_until_ms = None, previous_until_ms
        if previous_until_ms is not None:
            present = self._keys.unseal(Purpose.WEBHOOKS, webhook.sealed_secret, _place(webhook, "secret"))
            webhook.sealed_previous = self._keys.seal(Purpose.WEBHOOKS, present, _place(webhook, "previous"))
        self.set_secret(webhook, secret)

    def valid_secrets(self, webhook: Webhook, now_ms: int) -> list[str]:
        """The secrets that sign now, the present one first."""
        sealed = {"secret": webhook.sealed_secret}
        if webhook.sealed_previous is not None and now_ms < (webhook.previous_until_ms or 0):
            sealed["previous"] = webhook.sealed_previous
        return [
            self._keys.unseal(Purpose.WEBHOOKS, text, _place(webhook, part)).decode() for part, text in sealed.items()
        ]


def _place(webhook: Webhook, part: str) -> str:
    return f"webhooks/{webhook.tenant_id}/{webhook.id}/{part}"
