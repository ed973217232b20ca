"""The soak test's parts: ``load`` asks for jobs, ``faults`` breaks things, ``measure`` watches, ``verdict`` judges."""
