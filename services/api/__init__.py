"""Projects the stream into Postgres and serves it to people."""
