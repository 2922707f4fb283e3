# Compiles for 64-bit ARM on another machine, with Debian's cross compiler; programs run under QEMU.
#   cmake -S . -B build/arm --toolchain cmake/aarch64-linux-gnu.cmake -DREFINER_KERNEL_TESTS=ON
# Clang takes the same libraries: -DCMAKE_CXX_COMPILER=clang++
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
if(NOT DEFINED CMAKE_CXX_COMPILER)
  set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
endif()
set(CMAKE_CXX_COMPILER_TARGET aarch64-linux-gnu)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
