"""What is written, how, and when it is still good."""
