# Read after llama.cpp's `project()`: llama-cpp-python always asks for the library of llama.cpp's
# own programs, which takes half as long to compile as the library that it uses.
set(LLAMA_BUILD_COMMON OFF)
