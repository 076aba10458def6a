"""The commands that people type: thin entry points over services and deploy."""
