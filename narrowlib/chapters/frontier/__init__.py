"""Chapter llm-frontier: claim L3."""
