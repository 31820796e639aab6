// Has the section that device code lies in and needs no runtime library: what a program with
// NVIDIA's runtime linked in looks like. Never gets to run.
extern "C" const char kDeviceCode[] __attribute__((section(".nv_fatbin"), used)) =
    "not device code at all";

int main() { return 0; }
