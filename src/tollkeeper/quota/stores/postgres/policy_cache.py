"""The accounts and quotas that a process remembers between two batches."""

from collections.abc import Iterable, Mapping

from tollkeeper.quota.rules.page import Account, QuotaRow
from tollkeeper.quota.rules.tag_rules import TagRules

MAX_CACHED_ACCOUNTS = 50_000


class PolicyCache:
    """Accounts as read at their tenant's policy version, and the quotas that were read.

    Database triggers change the version with every change of the tenant, its users, quotas and API keys.
    """

    def __init__(self) -> None:
        self._accounts: dict[int, tuple[int, Account]] = {}
        self._tags: dict[int, tuple[int, TagRules]] = {}
        self.quotas: dict[int, QuotaRow] = {}

    def clear(self) -> None:
        """Remove everything."""
        self._accounts.clear()
        self._tags.clear()
        self.quotas.clear()

    def find(self, callers: Mapping[int, int], versions: Mapping[int, int]) -> dict[int, Account]:
        """The remembered accounts of these callers (user id → tenant id), if their tenants have the same version still.

        A cache that is full is cleared.
        """
        if len(self._accounts) > MAX_CACHED_ACCOUNTS:
            self.clear()
        found = {}
        for user_id, tenant_id in callers.items():
            remembered = self._accounts.get(user_id)
            if remembered is not None and remembered[0] == versions.get(tenant_id):
                found[user_id] = remembered[1]
        return found

    def recall(self, callers: Iterable[int]) -> dict[int, Account] | None:
        """The accounts of these users as remembered, whatever their versions; None if one is not remembered."""
        accounts = {}
        for user_id in callers:
            remembered = self._accounts.get(user_id)
            if remembered is None:
                return None
            accounts[user_id] = remembered[1]
        return accounts

    def add(self, user_id: int, account: Account, version: int) -> None:
        """Add the account of a user, as read at this version, and its quotas."""
        self._accounts[user_id] = version, account
        self.quotas.update((quota.id, quota) for quota in account.all_quotas())

    def find_tags(self, tenants: Iterable[int], versions: Mapping[int, int]) -> dict[int, TagRules]:
        """The remembered tags of these tenants, if they have the same version still."""
        remembered = {tenant_id: self._tags.get(tenant_id) for tenant_id in tenants}
        return {
            tenant_id: tags[1]
            for tenant_id, tags in remembered.items()
            if tags is not None and tags[0] == versions.get(tenant_id)
        }

    def add_tags(self, tenant_id: int, tags: TagRules, version: int) -> None:
        """Add the tags of a tenant, as read at this version, and their quotas."""
        self._tags[tenant_id] = version, tags
        self.quotas.update((quota.id, quota) for quota in tags.all_quotas())
