"""Many small networks at once: stacks of perceptrons, their written-out gradients, and the engine that trains them."""
