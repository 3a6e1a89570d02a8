"""Rounding of weights chosen by the outputs: AdaRound and coordinate descent."""
