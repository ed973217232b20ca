"""Real PostgreSQL and Valkey from wheels: one folder, loopback only, no root, no container.

    from scripts.embedded import EmbeddedPostgres, EmbeddedValkey

    with EmbeddedPostgres(folder) as postgres, EmbeddedValkey(folder) as valkey:
        postgres.url            # postgresql://plantain:…@127.0.0.1:PORT/plantain
        postgres.url_of("x")    # the same server, another database
        valkey.url              # redis://:…@127.0.0.1:PORT/0

The first start takes about a second (initdb), later ones 0.1 s. Data is in `folder/postgres` and `folder/valkey`,
passwords in `folder/secrets`, output in `folder/logs`; the folder becomes 0700. One handle runs one server:

    server.start()     # on a free port, or on the port it had before; returns when it answers
    server.stop()      # clean: SIGINT for PostgreSQL, SIGTERM for Valkey
    server.kill()      # SIGKILL, for tests of faults; start() or restart() brings it back on the same port
    server.restart()
    server.alive, server.pid, server.port, server.log

`EmbeddedPostgres(folder, settings={"fsync": "off"})` adds server settings, for tests that need speed and no durability.
Start servers from the main thread: then they end with this process, however that ends. `EmbeddedError` says in plain
words what went wrong. docs/decisions/0003 says why these packages.
"""

from scripts.embedded.postgres import EmbeddedPostgres
from scripts.embedded.server import EmbeddedError, EmbeddedServer, explain
from scripts.embedded.valkey import EmbeddedValkey

__all__ = ["EmbeddedError", "EmbeddedPostgres", "EmbeddedServer", "EmbeddedValkey", "explain"]
