"""What is wrong: `versions` with this installation, `handoffs` with a run, from step to step by content hashes."""
