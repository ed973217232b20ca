"""What a developer runs: each executable here prepares its own Python environment first."""
