"""What puts the tournament on machines: deploy steps, the sandbox image, and everything on one machine (local/)."""
