"""The exporter of C arrays for LiteRT for Microcontrollers."""
