"""Running of files on their runtimes, comparison with Keras, and measurement of latency, memory and bytes."""
