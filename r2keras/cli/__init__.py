"""Command lines: `r2keras-convert`, `r2keras-expand`, `r2keras-search`, `r2keras-verify`."""
