"""The exporter of LiteRT files."""
