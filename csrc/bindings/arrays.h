// What the bindings of networks and layers share: arrays that come from Python, and their checks.
#pragma once

#include <pybind11/numpy.h>

#include <stdexcept>
#include <string>

namespace refiner {

using Array = pybind11::array_t<float, pybind11::array::c_style>;

// A literal costs nothing where the condition holds: these checks run in every frame of a stream.
inline void require(bool condition, const char* what) {
    if (!condition) throw std::invalid_argument(what);
}

inline void require(bool condition, const std::string& what) { require(condition, what.c_str()); }

}  // namespace refiner
