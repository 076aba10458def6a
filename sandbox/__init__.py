"""What runs inside the sandbox, and the wire protocol to it. Standard library, numpy and torch only; no service is known here."""
