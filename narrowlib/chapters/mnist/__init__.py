"""Chapter mnist: claims M1 and M2."""
