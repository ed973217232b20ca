"""What happened to jobs, in order, for whoever wants to hear all of it."""
