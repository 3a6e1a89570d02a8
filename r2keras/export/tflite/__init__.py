"""The `.tflite` file format: schema, subgraphs, bit packing, constants, grids."""
