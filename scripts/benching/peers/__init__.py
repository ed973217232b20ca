"""Other queues at the same work: a durable claim in PostgreSQL, a call of the provider, a durable record.

Each is written as its own documentation recommends, for the pool, driver and event loop that it does best with. These
modules run in the peers' own environments and import nothing of Plantain. What the peers leave out (events, attempts,
leases, retries that survive the loss of Redis) they are not charged for.
"""
