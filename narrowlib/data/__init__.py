"""Data that models are trained and tested on: MNIST digits, documents, blocks of tokens, facts."""
