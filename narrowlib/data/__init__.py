"""What models are trained on and asked: MNIST digits, documents, blocks of tokens, facts."""
