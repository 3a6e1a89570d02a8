"""Helpers that know nothing of Keras: errors, files, text, tables, optional packages."""
