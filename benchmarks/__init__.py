"""Numbers about speed, each against a plainly written baseline measured in the same run."""
