package com.r2keras;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/** Expands a bundle of r2keras to the bytes of a float .tflite file, for LiteRT's Interpreter. */
public final class BundleLoader {
  private static final byte[] MAGIC = {'R', '2', 'K', 'B', 'N', 'D', 'L', '1'};
  private static final int HEADER_BYTES = 24;
  private static final int NUMBERS_PER_RECORD = 20;

  private BundleLoader() {}

  /**
   * Returns the expanded file, in a direct buffer that the interpreter can use as it is.
   *
   * @param bundle the whole bundle, from position 0 to its limit; a mapped file or asset is fine.
   * @throws IllegalArgumentException if it is not a bundle, or is damaged.
   */
  public static ByteBuffer load(ByteBuffer bundle) {
    try {
      return expand(bundle.duplicate().order(ByteOrder.LITTLE_ENDIAN));
    } catch (IndexOutOfBoundsException | ArithmeticException error) {
      throw new IllegalArgumentException("The bundle is damaged: a number or an offset cannot be.", error);
    }
  }

  private static ByteBuffer expand(ByteBuffer in) {
    for (int i = 0; i < MAGIC.length; i++) {
      if (in.get(i) != MAGIC[i]) {
        throw new IllegalArgumentException("Not a bundle of r2keras: it does not begin with R2KBNDL1.");
      }
    }
    int count = in.getInt(8);
    int skeleton = in.getInt(12);
    int size = in.getInt(16);
    int expanded = in.getInt(20);
    if (count < 0 || size < 0 || expanded < size) {
      throw new IllegalArgumentException("The bundle is damaged: its sizes do not fit together.");
    }
    for (int k = 0; k < count; k++) {
      check(in, HEADER_BYTES + 4 * NUMBERS_PER_RECORD * k, expanded);
    }
    ByteBuffer out = ByteBuffer.allocateDirect(expanded).order(ByteOrder.nativeOrder());
    for (int i = 0; i < size; i++) {
      out.put(i, in.get(skeleton + i));
    }
    for (int k = 0; k < count; k++) {
      decode(in, HEADER_BYTES + 4 * NUMBERS_PER_RECORD * k, out);
    }
    return out;
  }

  /** Throws if the values of a record do not fit into the expanded file. */
  private static void check(ByteBuffer in, int record, int expanded) {
    int target = in.getInt(record);
    int bits = in.getInt(record + 20);
    long before = in.getInt(record + 4);
    long last = in.getInt(record + 8);
    long after = in.getInt(record + 12);
    boolean positive = target >= 0 && before > 0 && last > 0 && after > 0 && in.getInt(record + 16) > 0;
    if (!positive || (bits != 2 && bits != 4 && bits != 8)) {
      throw new IllegalArgumentException("The bundle is damaged: a record has sizes that cannot be.");
    }
    if (Math.addExact(target, Math.multiplyExact(4L, Math.multiplyExact(before * last, after))) > expanded) {
      throw new IllegalArgumentException("The bundle is damaged: a weight does not fit into the file.");
    }
  }

  private static void decode(ByteBuffer in, int record, ByteBuffer out) {
    int target = in.getInt(record);
    int before = in.getInt(record + 4);
    int last = in.getInt(record + 8);
    int after = in.getInt(record + 12);
    int dim = in.getInt(record + 16);
    int bits = in.getInt(record + 20);
    int codes = in.getInt(record + 24);
    int table = in.getInt(record + 28);
    Pattern first = new Pattern(in, record + 32);
    Pattern scale = new Pattern(in, record + 44);
    Pattern add = new Pattern(in, record + 56);
    Pattern multiply = new Pattern(in, record + 68);
    int vectors = (last - 1) / dim + 1;
    int i = 0;
    for (int row = 0; row < before; row++) {
      for (int column = 0; column < last; column++) {
        for (int inner = 0; inner < after; inner++, i++) {
          int code = code(in, codes, bits, (row * vectors + column / dim) * after + inner);
          int entry = (code + in.getInt(first.at(i))) * dim + column % dim;
          float value = in.getFloat(table + 4 * entry);
          if (scale.count != 0) {
            value = value * in.getFloat(scale.at(i));
          }
          if (add.count != 0) {
            value = value + in.getFloat(add.at(i));
          }
          if (multiply.count != 0) {
            value = value * in.getFloat(multiply.at(i));
          }
          out.putFloat(target + 4 * i, value);
        }
      }
    }
  }

  /** Returns one signed code; the first of a byte is in its lowest bits. */
  private static int code(ByteBuffer in, int codes, int bits, int index) {
    int perByte = 8 / bits;
    int shifted = in.get(codes + index / perByte) >> (index % perByte * bits);
    return shifted << (32 - bits) >> (32 - bits);
  }

  /** Numbers of 32 bits of which value i uses element i / inner % count. */
  private static final class Pattern {
    final int offset;
    final int inner;
    final int count;

    Pattern(ByteBuffer in, int position) {
      offset = in.getInt(position);
      inner = in.getInt(position + 4);
      count = in.getInt(position + 8);
    }

    int at(int i) {
      return offset + 4 * (i / inner % count);
    }
  }
}
