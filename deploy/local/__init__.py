"""The whole tournament on one machine: real NATS and Postgres from wheels, the five services as processes."""
