"""What all services speak: events, subjects, streams, bus, artifacts, hparams. It imports nothing of ours."""
