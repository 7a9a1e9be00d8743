"""The parameters in a PostgreSQL URL that its other clients know, as hosts of databases hand them out."""

from sqlalchemy import text

from support.factories import make_principal, make_store, set_limit, user_quota
from tollkeeper.database.engine import SCHEMA_REVISION, Database
from tollkeeper.database.migrations import migrate
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.windows import Period


def parameters(url: str) -> str:
    """The URL with parameters that SQLAlchemy does not know."""
    return f"{url}{'&' if '?' in url else '?'}sslmode=prefer&application_name=of-the-url"


def test_migrations_take_the_parameters_of_a_postgres_url(postgres_url: str) -> None:
    assert migrate(parameters(postgres_url)).before == SCHEMA_REVISION


async def test_sessions_and_the_ledger_take_the_parameters_of_a_postgres_url(postgres_url: str) -> None:
    url = parameters(postgres_url)
    database, ledger = Database(url), Ledger(make_store(url), lease_seconds=60)
    ledger.start()
    try:
        await set_limit(ledger, user_quota(await make_principal(database), Period.DAY), 5)
        async with database.session() as session:
            connection = await session.connection()
            named = (await connection.execute(text("SELECT current_setting('application_name')"))).scalar_one()
            limits = (await connection.execute(text("SELECT granted FROM quotas"))).scalars().all()
    finally:
        await ledger.stop()
        await database.close()
    assert (named, limits) == ("of-the-url", [5])
