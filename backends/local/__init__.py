"""MLflow as registry and tracking server: a SQLite database on this machine, or a server of one's own."""
