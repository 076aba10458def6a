"""What good is measured by, each as a ratio to a bare equivalent that was measured beside it."""
