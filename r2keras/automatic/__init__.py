"""Choice of the bits of each layer: sensitivity of the outputs, the best assignment, candidates tried on real data."""
