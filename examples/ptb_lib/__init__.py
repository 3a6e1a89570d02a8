"""The pieces of the Penn Treebank example."""
