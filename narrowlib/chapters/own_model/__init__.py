"""Chapter recipe: narrow a model of your own."""
