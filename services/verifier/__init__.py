"""The verifier: compares evidence with the reference, judges, ranks."""
