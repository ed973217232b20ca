"""What api and worker have in common: settings, the database, providers, kinds and the life of a job."""
