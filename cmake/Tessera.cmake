# House rules for every target: one place for language, warnings, sanitizers and test registration.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

find_program(TESSERA_CCACHE ccache)
if(TESSERA_CCACHE)
  set(CMAKE_C_COMPILER_LAUNCHER ${TESSERA_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${TESSERA_CCACHE})
endif()

add_library(tessera_options INTERFACE)
target_include_directories(tessera_options INTERFACE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR}
                           ${CMAKE_BINARY_DIR}/generated)
target_compile_options(tessera_options INTERFACE -Wall -Wextra -Werror -Wno-missing-field-initializers
                       $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor -Woverloaded-virtual>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  # libstdc++ 12 marks as deprecated what its own std::stable_sort is made of, and clang says so where it is used.
  target_compile_options(tessera_options INTERFACE -Wthread-safety -Wno-gnu-statement-expression -Wno-deprecated-declarations)
endif()
# g++ 12 sees overlaps in std::string's own operator+ when it optimises (GCC bug 105651).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
  target_compile_options(tessera_options INTERFACE -Wno-restrict)
endif()
if(TESSERA_SANITIZER STREQUAL "address")
  target_compile_options(tessera_options INTERFACE -fsanitize=address,undefined -fno-omit-frame-pointer
                         -fno-sanitize-recover=undefined)
  # Drivers are called through dlsym by types of our own spelling, which this check takes for a mismatch.
  target_compile_options(tessera_options INTERFACE -fno-sanitize=function)
  target_link_options(tessera_options INTERFACE -fsanitize=address,undefined)
elseif(TESSERA_SANITIZER STREQUAL "thread")
  target_compile_options(tessera_options INTERFACE -fsanitize=thread)
  target_link_options(tessera_options INTERFACE -fsanitize=thread)
endif()

# tessera_library(room SOURCES a.cc b.cc DEPS tessera_base LIBS PkgConfig::x): a static library of one room.
function(tessera_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS;LIBS" ${ARGN})
  if(arg_SOURCES)
    add_library(tessera_${name} STATIC ${arg_SOURCES})
    target_link_libraries(tessera_${name} PUBLIC tessera_options ${arg_DEPS} PRIVATE ${arg_LIBS})
  else()
    add_library(tessera_${name} INTERFACE)
    target_link_libraries(tessera_${name} INTERFACE tessera_options ${arg_DEPS} ${arg_LIBS})
  endif()
endfunction()

# tessera_program(name SOURCES main.cc DEPS ...): an executable in bin/.
function(tessera_program name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE tessera_options ${arg_DEPS})
endfunction()

# tessera_test(name SOURCES ... DEPS ... [LABEL fast|slow|tsan] [TIMEOUT s] [ENV K=V ...] [SERIAL]):
# a GTest binary registered with ctest under one label. "fast" runs first and stays under a minute in all.
# SERIAL tests run alone: they use the whole machine or measure it.
function(tessera_test name)
  cmake_parse_arguments(arg "SERIAL" "LABEL;TIMEOUT" "SOURCES;DEPS;ENV" ${ARGN})
  if(NOT TESSERA_TESTS)
    return()
  endif()
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE tessera_options ${arg_DEPS} GTest::gtest GTest::gmock
                        GTest::gtest_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  tessera_add_test(${name} COMMAND ${name} LABEL "${arg_LABEL}" TIMEOUT "${arg_TIMEOUT}" ENV ${arg_ENV}
                   SERIAL ${arg_SERIAL})
  # A test that reads TESSERA_SOAK has a long form, which ./dev soak runs.
  foreach(source IN LISTS arg_SOURCES)
    get_filename_component(source ${source} ABSOLUTE)
    if(EXISTS ${source})
      file(STRINGS ${source} reads REGEX "TESSERA_SOAK" LIMIT_COUNT 1)
      if(reads)
        tessera_add_test(${name}_soak COMMAND ${name} LABEL soak TIMEOUT 7200 ENV ${arg_ENV} TESSERA_SOAK=1000000
                         SERIAL ${arg_SERIAL})
        break()
      endif()
    endif()
  endforeach()
endfunction()

# tessera_add_test(name COMMAND ... [LABEL l] [TIMEOUT s] [ENV ...] [SERIAL TRUE]): any command as a test.
function(tessera_add_test name)
  cmake_parse_arguments(arg "" "LABEL;TIMEOUT;SERIAL" "COMMAND;ENV" ${ARGN})
  if(NOT TESSERA_TESTS)
    return()
  endif()
  if(NOT arg_LABEL)
    set(arg_LABEL fast)
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  if(name IN_LIST TESSERA_SANITIZED_TESTS)
    list(APPEND arg_LABEL sanitized_tests)
  endif()
  add_test(NAME ${name} COMMAND ${arg_COMMAND})
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABEL}" TIMEOUT ${arg_TIMEOUT})
  if(arg_ENV)
    set_tests_properties(${name} PROPERTIES ENVIRONMENT "${arg_ENV}")
  endif()
  if(arg_SERIAL)
    set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
  endif()
endfunction()
