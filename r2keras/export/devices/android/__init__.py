"""Files on an Android phone: LiteRT's `benchmark_model` over adb, here or at a colleague's desk."""
