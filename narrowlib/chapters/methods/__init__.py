"""Chapter methods: samples of the CMSP task."""
