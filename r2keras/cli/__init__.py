"""Command-line tools; installed as `r2keras_tools`, and as `r2keras-convert` and `r2keras-verify`."""
