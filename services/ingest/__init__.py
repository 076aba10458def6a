"""Takes submissions over HTTP, checks their payment, and asks for their evaluation."""
