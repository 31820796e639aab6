# Wraps the text of IN into a C++ file OUT that defines kDemoKernelsPtx.
file(READ ${IN} text)
file(WRITE ${OUT} "#include \"simgpu/kernels/demo_kernels.h\"\n\nnamespace simgpu::kernels {\nconst char kDemoKernelsPtx[] = R\"PTX(${text})PTX\";\n}  // namespace simgpu::kernels\n")
