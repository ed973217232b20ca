"""The fault suite: nothing is lost, and nothing is billed twice, whatever dies.

Each test starts real processes and real, durable servers, puts jobs through the HTTP API while clients poll, breaks one
thing, waits until all jobs are final, and has invariant I checked from the database, the simulator's counters and what
the clients were told: never from logs. ``docs/operations.md`` tells what each fault looks like from outside.

    scripts/test --faults                      all of it, with a table at the end
    scripts/test --faults --faults-seed 7      the same random moments again (or FAULTS_SEED=7)

A test in full::

    @pytest.mark.fault(8, "worker killed during a call")
    def test_worker_killed(new_stack: NewStack) -> None:
        stack = new_stack(workers=2, LEASE_SECONDS=3)      # settings by name; see harness.Stack
        stack.clients.submit(40, seconds=1.0)              # through HTTP, each call takes a second
        stack.wait_until(lambda: stack.calls() >= 10, 20, "calls are under way")
        stack.kill("worker-1")                             # SIGKILL for its process group; it is restarted
        stack.mark()                                       # recovery is measured from here
        stack.settle(60)                                   # every job is final
        stack.verify(calls=(41, 50))                       # invariant I, and a line in the table

What there is:

- ``harness.Stack``: processes ``api``, ``worker-1`` …, ``beat``, ``simulator``, servers ``postgres`` and ``valkey``; each can be
  killed (SIGKILL), terminated (SIGTERM), frozen (SIGSTOP), thawed (SIGCONT), started and restarted. What exits without
  having been asked to is started again, as compose does it, while the test waits by ``wait_until`` or ``pause``.
- ``harness.Orders``: holds or kills a process at a named point of ``shared.checkpoints``:
  ``stack.orders.kill("answered", job)``, ``with stack.orders.hold("popped", count=3) as held: …``.
- ``proxy.Proxy``: stands between a process and a server where ``new_stack(proxied=["worker:redis"])`` asks for it:
  ``stack.proxies["worker:redis"].hole()``.
- ``clients.Clients``: submits, polls in the background, and remembers every answer.
- ``invariant.check``: all that must be true in the end. ``report``: the table.
- ``stack.random`` is seeded by the session's seed and the test's name: take every random moment from it.

A test that takes more than about ten seconds is marked ``slow``. No process outlives its test; logs are shown when it fails.
"""
