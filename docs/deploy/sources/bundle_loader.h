// Expands a bundle of r2keras to the bytes of a float .tflite file, for FlatBufferModel::BuildFromBuffer.
//
// C++17, no other library. Compile with -ffp-contract=off: a fused multiplication and addition rounds once, where the
// weights were rounded twice.
#ifndef R2KERAS_BUNDLE_LOADER_H_
#define R2KERAS_BUNDLE_LOADER_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace r2keras {

// The expanded file, aligned as LiteRT needs it. Keep it as long as the interpreter exists.
class Model {
 public:
  explicit Model(size_t size) : blocks_((size + sizeof(Block) - 1) / sizeof(Block)), size_(size) {}
  char* data() { return reinterpret_cast<char*>(blocks_.data()); }
  const char* data() const { return reinterpret_cast<const char*>(blocks_.data()); }
  size_t size() const { return size_; }

 private:
  struct alignas(16) Block {
    char bytes[16];
  };
  std::vector<Block> blocks_;
  size_t size_;
};

namespace internal {

// The bytes of a bundle; numbers are little-endian, as on every Android device.
class Bytes {
 public:
  Bytes(const void* data, size_t size) : data_(static_cast<const char*>(data)), size_(size) {}

  const char* at(uint64_t offset, uint64_t count) const {
    if (offset > size_ || count > size_ - offset) {
      throw std::invalid_argument("The bundle is damaged: an offset lies outside of it.");
    }
    return data_ + offset;
  }

  template <typename T>
  T number(uint64_t offset) const {
    T value;
    std::memcpy(&value, at(offset, sizeof(T)), sizeof(T));
    return value;
  }

 private:
  const char* data_;
  uint64_t size_;
};

// Numbers of 32 bits of which value i uses element i / inner % count.
struct Pattern {
  uint64_t offset, inner, count;

  Pattern(const Bytes& in, uint64_t position)
      : offset(in.number<uint32_t>(position)),
        inner(in.number<uint32_t>(position + 4)),
        count(in.number<uint32_t>(position + 8)) {
    if (count != 0 && inner == 0) throw std::invalid_argument("The bundle is damaged: a pattern repeats nothing.");
  }

  uint64_t at(uint64_t i) const { return offset + 4 * (i / inner % count); }
};

// Returns one signed code; the first of a byte is in its lowest bits.
inline int32_t Code(const Bytes& in, uint64_t codes, uint32_t bits, uint64_t index) {
  const uint32_t per_byte = 8 / bits;
  const uint32_t byte = static_cast<uint8_t>(*in.at(codes + index / per_byte, 1));
  const int32_t found = static_cast<int32_t>(byte >> (index % per_byte * bits) & ((1u << bits) - 1));
  return found >= 1 << (bits - 1) ? found - (1 << bits) : found;
}

// Writes the floats of one weight.
inline void Decode(const Bytes& in, uint64_t record, Model* out) {
  uint64_t numbers[8];
  for (int n = 0; n < 8; ++n) numbers[n] = in.number<uint32_t>(record + 4 * n);
  const auto [target, before, last, after, dim, bits, codes, table] = numbers;
  const Pattern first(in, record + 32), scale(in, record + 44), add(in, record + 56), multiply(in, record + 68);
  const bool sizes = before && last && after && dim && first.count && (bits == 2 || bits == 4 || bits == 8);
  // Each factor has 32 bits, so the product is tested before the third one can overflow.
  if (!sizes || before * last > out->size() || before * last * after > out->size() / 4 ||
      target > out->size() - 4 * before * last * after) {
    throw std::invalid_argument("The bundle is damaged: a weight does not fit into the file.");
  }
  const uint64_t vectors = (last + dim - 1) / dim;
  for (uint64_t i = 0; i < before * last * after; ++i) {
    const uint64_t row = i / (last * after), column = i / after % last;
    const int64_t code = Code(in, codes, static_cast<uint32_t>(bits), (row * vectors + column / dim) * after + i % after);
    const int64_t entry = code + in.number<int32_t>(first.at(i));
    if (entry < 0) throw std::invalid_argument("The bundle is damaged: a code has no entry.");
    float value = in.number<float>(table + 4 * (static_cast<uint64_t>(entry) * dim + column % dim));
    if (scale.count) value = value * in.number<float>(scale.at(i));
    if (add.count) value = value + in.number<float>(add.at(i));
    if (multiply.count) value = value * in.number<float>(multiply.at(i));
    std::memcpy(out->data() + target + 4 * i, &value, 4);
  }
}

}  // namespace internal

// Returns the expanded file. Throws std::invalid_argument if the bytes are not a bundle, or are damaged.
inline Model LoadBundle(const void* data, size_t size) {
  const internal::Bytes in(data, size);
  if (size < 24 || std::memcmp(data, "R2KBNDL1", 8) != 0) {
    throw std::invalid_argument("Not a bundle of r2keras: it does not begin with R2KBNDL1.");
  }
  const uint32_t count = in.number<uint32_t>(8), bytes = in.number<uint32_t>(16);
  const char* skeleton = in.at(in.number<uint32_t>(12), bytes);
  in.at(24, uint64_t{80} * count);
  if (in.number<uint32_t>(20) < bytes) throw std::invalid_argument("The bundle is damaged: its sizes do not fit.");
  Model out(in.number<uint32_t>(20));
  std::memcpy(out.data(), skeleton, bytes);
  for (uint32_t k = 0; k < count; ++k) internal::Decode(in, 24 + uint64_t{80} * k, &out);
  return out;
}

}  // namespace r2keras

#endif  // R2KERAS_BUNDLE_LOADER_H_
