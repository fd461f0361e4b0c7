"""Chapter unlearning: claim U1."""
