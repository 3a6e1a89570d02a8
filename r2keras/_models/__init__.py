"""Reading, walking and copying Keras models."""
