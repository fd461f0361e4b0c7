"""Storage: files, records, results kept between runs, downloads, provenance."""
