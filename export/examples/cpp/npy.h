// The part of NumPy's .npy format that the example needs: little-endian float32 arrays in C order.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Array {
  std::vector<size_t> shape;
  std::vector<float> values;
};

inline size_t count_of(const std::vector<size_t>& shape) {
  size_t count = 1;
  for (size_t axis : shape) count *= axis;
  return count;
}

// Raises std::runtime_error for anything but float32 of three axes.
inline Array read_npy(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be opened");
  char magic[10];
  file.read(magic, sizeof magic);
  if (!file || std::memcmp(magic, "\x93NUMPY\x01", 7) != 0) {
    throw std::runtime_error(path + ": is no .npy file of version 1; write it with numpy.save");
  }
  uint16_t length;
  std::memcpy(&length, magic + 8, sizeof length);
  std::string header(length, '\0');
  file.read(header.data(), length);
  if (header.find("'<f4'") == std::string::npos || header.find("'fortran_order': False") == std::string::npos) {
    throw std::runtime_error(path + ": expected float32 in C order; save numpy.ascontiguousarray(x, numpy.float32)");
  }
  size_t frames, joints, coordinates;
  const char* shape = std::strchr(header.c_str(), '(');
  if (shape == nullptr || std::sscanf(shape, "(%zu, %zu, %zu)", &frames, &joints, &coordinates) != 3) {
    throw std::runtime_error(path + ": expected the shape (frames, joints, coordinates)");
  }
  if (joints > 1000 || coordinates > 3 || frames > (size_t{1} << 32)) {
    throw std::runtime_error(path + ": holds no poses");
  }
  Array array{{frames, joints, coordinates}, std::vector<float>(frames * joints * coordinates)};
  file.read(reinterpret_cast<char*>(array.values.data()), array.values.size() * sizeof(float));
  if (!file) throw std::runtime_error(path + ": is shorter than its header says");
  return array;
}

inline void write_npy(const std::string& path, const Array& array) {
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (";
  for (size_t axis : array.shape) header += std::to_string(axis) + ", ";
  header += "), }";
  header.append(63 - (header.size() + 10) % 64, ' ');
  header += '\n';
  const uint16_t length = static_cast<uint16_t>(header.size());
  std::ofstream file(path, std::ios::binary);
  file.write("\x93NUMPY\x01\x00", 8);
  file.write(reinterpret_cast<const char*>(&length), sizeof length);
  file << header;
  file.write(reinterpret_cast<const char*>(array.values.data()), array.values.size() * sizeof(float));
  file.flush();
  if (!file) throw std::runtime_error(path + ": could not be written");
}
