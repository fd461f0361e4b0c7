"""One function per claim, one module per chapter; each returns a tidy DataFrame."""
