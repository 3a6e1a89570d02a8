"""What each target takes: forms, types of inputs and outputs, batch sizes, operators."""
