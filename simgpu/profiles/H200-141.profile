# NVIDIA H200 SXM 141 GB. H200 is another name of this profile.
name NVIDIA H200
architecture hopper
brand nvidia
vbios 96.00.BC.00.01
memory_mib 143770
context_mib 520
bar1_mib 262144
l2_kib 61440
capability 9.0
sm_count 132
cores_per_sm 128
threads_per_sm 2048
blocks_per_sm 32
registers_per_sm 65536
shared_per_sm 233472
shared_per_block_optin 232448
clock_khz 1980000
clock_idle_khz 345000
memory_clock_khz 3201000
memory_bus_bits 6144
copy_engines 3
pci_device 0x233510DE
pci_subsystem 0x18BE10DE
pcie_generation 5
pcie_width 16
p2p_pcie 1
nvlink_links 18
nvlink_version 4.0
nvlink_mb_s 26562
ecc on
memory_repair rows
power_idle_mw 76000
power_min_mw 200000
power_limit_mw 700000
power_max_mw 700000
temperature_idle_c 28
temperature_load_c 58
temperature_max_c 85
temperature_slowdown_c 87
temperature_shutdown_c 92
temperature_memory_idle_c 34
temperature_memory_load_c 70
temperature_memory_max_c 95
fans 0
time_slice_us 2000
switch_us 100
# name id kind slices instances memory_mib sms copy_engines decoders encoders jpeg ofa size starts
mig 1g.18gb 19 0 1 7 16384 16 1 1 0 1 0 1 0,1,2,3,4,5,6
mig 1g.18gb+me 20 7 1 1 16384 16 1 1 0 1 1 1 0,1,2,3,4,5,6
mig 1g.35gb 15 9 1 4 33280 26 1 1 0 1 0 2 0,2,4,6
mig 2g.35gb 14 1 2 3 33280 32 2 2 0 2 0 2 0,2,4
mig 3g.71gb 9 2 3 2 71424 60 3 3 0 3 0 4 0,4
mig 4g.71gb 5 3 4 1 71424 64 4 4 0 4 0 4 0
mig 7g.141gb 0 4 7 1 143360 132 8 7 0 7 1 8 0
