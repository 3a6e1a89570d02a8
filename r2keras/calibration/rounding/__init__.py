"""Rounding of weights that minimizes the error of the outputs: AdaRound and coordinate descent."""
