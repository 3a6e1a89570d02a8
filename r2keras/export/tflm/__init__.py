"""The exporter of files for LiteRT for Microcontrollers."""
