"""Integer operators: int8 activations, integer kernels and biases."""
