"""The parts of the pilot: settings, store, training, rows, progress and report."""
