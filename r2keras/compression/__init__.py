"""Compression of a model: `prepare` for training under a recipe, `finalize` onto the grid."""
