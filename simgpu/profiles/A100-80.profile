# NVIDIA A100 SXM4 80 GB.
name NVIDIA A100-SXM4-80GB
architecture ampere
brand nvidia
vbios 92.00.9E.00.01
memory_mib 81920
context_mib 416
bar1_mib 131072
l2_kib 40960
capability 8.0
sm_count 108
cores_per_sm 64
threads_per_sm 2048
blocks_per_sm 32
registers_per_sm 65536
shared_per_sm 167936
shared_per_block_optin 166912
clock_khz 1410000
clock_idle_khz 210000
memory_clock_khz 1593000
memory_bus_bits 5120
copy_engines 3
pci_device 0x20B210DE
pci_subsystem 0x147F10DE
pcie_generation 4
pcie_width 16
p2p_pcie 1
nvlink_links 12
nvlink_version 3.0
nvlink_mb_s 25781
ecc on
memory_repair rows
power_idle_mw 62000
power_min_mw 100000
power_limit_mw 400000
power_max_mw 400000
temperature_idle_c 31
temperature_load_c 62
temperature_max_c 85
temperature_slowdown_c 89
temperature_shutdown_c 92
temperature_memory_idle_c 34
temperature_memory_load_c 70
temperature_memory_max_c 95
fans 0
time_slice_us 2000
switch_us 100
# name id kind slices instances memory_mib sms copy_engines decoders encoders jpeg ofa size starts
mig 1g.10gb 19 0 1 7 9728 14 1 0 0 0 0 1 0,1,2,3,4,5,6
mig 1g.10gb+me 20 7 1 1 9728 14 1 1 0 1 1 1 0,1,2,3,4,5,6
mig 1g.20gb 15 9 1 4 19968 14 1 1 0 0 0 2 0,2,4,6
mig 2g.20gb 14 1 2 3 19968 28 2 1 0 0 0 2 0,2,4
mig 3g.40gb 9 2 3 2 40192 42 3 2 0 0 0 4 0,4
mig 4g.40gb 5 3 4 1 40192 56 4 2 0 0 0 4 0
mig 7g.80gb 0 4 7 1 80896 98 7 5 0 1 1 8 0
