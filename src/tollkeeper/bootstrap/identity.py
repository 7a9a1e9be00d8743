"""Composes what authenticates callers and what encrypts: passwords, tokens, API keys, sessions, single sign-on."""

from dataclasses import dataclass

from tollkeeper.audit_log.log import AuditLog
from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.identity.authenticator import Authenticator
from tollkeeper.identity.keys import ApiKeys
from tollkeeper.identity.logins import Logins
from tollkeeper.identity.oidc.client import OpenIdClient
from tollkeeper.identity.passwords import Passwords
from tollkeeper.identity.sessions import Sessions
from tollkeeper.identity.tag_values import TagValues
from tollkeeper.identity.tokens import Tokens
from tollkeeper.identity.totp import SecondFactors
from tollkeeper.installation_secret import DATA_KEY, SIGNING_SECRET
from tollkeeper.outbound.client import OutboundClient
from tollkeeper.settings import Settings


@dataclass(frozen=True, slots=True)
class IdentityParts:
    """The parts of identity of a running server. `load` must be called first."""

    passwords: Passwords
    tokens: Tokens
    api_keys: ApiKeys
    authenticator: Authenticator
    tag_values: TagValues
    data_keys: DataKeys
    audit_log: AuditLog
    sessions: Sessions
    second_factors: SecondFactors
    logins: Logins
    outbound: OutboundClient
    openid: OpenIdClient

    async def load(self, database: Database, clock: Clock) -> None:
        """Read the keys that are stored. Raises ConfigurationError for another data key, DatabaseUnavailable."""
        await self.data_keys.load(database, clock)
        await self.api_keys.load()


def make_identity(settings: Settings, database: Database, clock: Clock) -> IdentityParts:
    """The parts for these settings. Raises ConfigurationError for a missing or weak secret."""
    passwords = Passwords(settings.bcrypt_rounds)
    previous = settings.previous_signing_secret
    tokens = Tokens(
        SIGNING_SECRET.load(settings, settings.signing_secret).get_secret_value(),
        previous=SIGNING_SECRET.check(previous).get_secret_value() if previous else None,
        minutes=settings.access_token_minutes,
        clock=clock,
    )
    api_keys = ApiKeys(database, clock)
    data_keys = DataKeys(DATA_KEY.load(settings, settings.data_key), previous=settings.previous_data_key)
    audit_log = AuditLog(data_keys)
    sessions = Sessions(tokens, data_keys, audit_log, clock, hours=settings.session_hours)
    second_factors = SecondFactors(data_keys, clock)
    outbound = OutboundClient(settings.private_networks, ca_file=settings.ca_file)
    return IdentityParts(
        passwords=passwords,
        tokens=tokens,
        api_keys=api_keys,
        authenticator=Authenticator(tokens, api_keys, clock, step_up_minutes=settings.step_up_minutes),
        tag_values=TagValues(database, clock),
        data_keys=data_keys,
        audit_log=audit_log,
        sessions=sessions,
        second_factors=second_factors,
        logins=Logins(database, passwords, second_factors, sessions, clock),
        outbound=outbound,
        openid=OpenIdClient(outbound, settings.public_base_url, clock),
    )
