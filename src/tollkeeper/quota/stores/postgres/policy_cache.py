"""The accounts and quotas that a process remembers between two batches."""

from tollkeeper.quota.rules.page import Account, QuotaRow

MAX_CACHED_ACCOUNTS = 50_000


class PolicyCache:
    """Accounts and quotas as read at one policy version. Database triggers raise the version with every change."""

    def __init__(self) -> None:
        self._version: int | None = None
        self.accounts: dict[int, Account] = {}
        self.quotas: dict[int, QuotaRow] = {}

    def require_version(self, version: int) -> None:
        """Empty the cache if it is of another version, or full."""
        if version != self._version or len(self.accounts) > MAX_CACHED_ACCOUNTS:
            self.clear()
            self._version = version

    def clear(self) -> None:
        """Remove everything."""
        self._version = None
        self.accounts.clear()
        self.quotas.clear()

    def add(self, user_id: int, account: Account) -> None:
        """Add the account of a user, and its quotas."""
        self.accounts[user_id] = account
        self.quotas.update((quota.id, quota) for quota in account.quotas)
