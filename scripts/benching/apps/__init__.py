"""What submits and polls are compared with: an empty FastAPI handler, and the stack of the tutorials."""
