"""Runs migrations: one transaction each, and never waiting long for a lock in front of live traffic."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine, pool, text

from shared.config import settings_or_exit
from shared.models import Base

#: A migration that cannot get its lock fails and can be run again; one that waits would stop every query behind it.
LOCK_TIMEOUT = "5s"
STATEMENT_TIMEOUT = "15min"
#: Two migrations at once wait for each other on this advisory lock ("plantain" in ASCII).
ADVISORY_LOCK = 0x706C616E7461696E


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    # Tests and tools hand their own connection over.
    given: Connection | None = context.config.attributes.get("connection")
    if given is not None:
        migrate(given)
        return
    options = f"-c lock_timeout={LOCK_TIMEOUT} -c statement_timeout={STATEMENT_TIMEOUT} -c timezone=UTC"
    engine = create_engine(
        settings_or_exit().sqlalchemy_url, poolclass=pool.NullPool, connect_args={"options": options}
    )
    with engine.connect() as connection:
        connection.execute(text("SET lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.commit()
        migrate(connection)


if context.is_offline_mode():
    context.configure(url="postgresql+psycopg://", target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    run_online()
