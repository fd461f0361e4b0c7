"""What is written, how, and when it is still good: files, records, results kept between runs, downloads, provenance."""
