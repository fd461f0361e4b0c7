"""The experiments and figures of the book, one package per chapter or pair of chapters."""
