"""Conversion of Keras models to float `.tflite` files."""
