"""The parts of the Penn Treebank example: settings, network, training step, export, rows and plot."""
