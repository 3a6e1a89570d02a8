"""Shared by all example programs: the program around the work, checks of flags, imports without TensorFlow's log."""
