"""Files run on their runtimes: outputs compared, latency, memory and bytes measured."""
