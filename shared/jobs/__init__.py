"""A job's life: its states, the SQL of each transition, and what the API and workers do with it."""
