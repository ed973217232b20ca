"""Gates: what holds a model's jobs back for all workers at once, because its provider said so or a limit does."""
