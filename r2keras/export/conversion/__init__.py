"""Keras models converted to float `.tflite` files."""
