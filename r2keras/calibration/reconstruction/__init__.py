"""Block-wise reconstruction: codes, scales and biases trained towards the float model's activations."""
