"""Chapter hierarchy: claims H1, H2 and H3."""
