"""What runs inside the sandbox, and the wire protocol to it. It knows no service: stdlib, numpy and torch only."""
