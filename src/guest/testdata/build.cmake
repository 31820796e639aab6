# Small C programs and libraries the preload is tried on; plain C, as other people's programs are.
set(programs ${CMAKE_BINARY_DIR}/tests/guest)
set(source ${CMAKE_CURRENT_SOURCE_DIR}/testdata)

foreach(link 1 2 3)
  add_library(guest_chain${link} SHARED ${source}/chain.c)
  target_compile_definitions(guest_chain${link} PRIVATE LINK=${link})
  set_target_properties(guest_chain${link} PROPERTIES OUTPUT_NAME chain${link}
                        LIBRARY_OUTPUT_DIRECTORY ${programs})
endforeach()
add_library(guest_test_driver SHARED ${source}/driver.c)
set_target_properties(guest_test_driver PROPERTIES OUTPUT_NAME cuda VERSION 1 SOVERSION 1
                      LIBRARY_OUTPUT_DIRECTORY ${programs}/driver)
target_link_options(guest_test_driver PRIVATE -Wl,--version-script=${source}/driver.map)
add_executable(guest_doors ${source}/doors.c)
target_link_libraries(guest_doors PRIVATE -Wl,--no-as-needed guest_chain1 guest_chain2 guest_chain3
                      ${CMAKE_DL_LIBS})
add_executable(guest_storm ${source}/storm.c)
target_link_libraries(guest_storm PRIVATE ${CMAKE_DL_LIBS} pthread)
add_executable(guest_plain ${source}/plain.c)
set(guest_programs guest_doors guest_storm guest_plain)
foreach(name IN LISTS guest_programs)
  string(REPLACE "guest_" "" output ${name})
  set_target_properties(${name} PROPERTIES OUTPUT_NAME ${output} RUNTIME_OUTPUT_DIRECTORY ${programs})
endforeach()

# The same program against the other libc. Its absence is an error: the shim must load there too.
find_program(TESSERA_MUSL_GCC musl-gcc REQUIRED)
add_custom_command(OUTPUT ${programs}/plain-musl
  COMMAND ${TESSERA_MUSL_GCC} -O1 -o ${programs}/plain-musl ${source}/plain.c
  COMMAND ${TESSERA_MUSL_GCC} -O1 -rdynamic -o ${programs}/storm-musl ${source}/storm.c
  DEPENDS ${source}/plain.c ${source}/storm.c VERBATIM)
add_custom_target(guest_plain_musl ALL DEPENDS ${programs}/plain-musl)
