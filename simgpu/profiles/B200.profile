# NVIDIA B200 SXM 180 GB.
name NVIDIA B200
architecture blackwell
brand nvidia
vbios 97.00.88.00.0F
memory_mib 183358
context_mib 560
bar1_mib 262144
l2_kib 129536
capability 10.0
sm_count 148
cores_per_sm 128
threads_per_sm 2048
blocks_per_sm 32
registers_per_sm 65536
shared_per_sm 233472
shared_per_block_optin 232448
clock_khz 1965000
clock_idle_khz 120000
memory_clock_khz 3996000
memory_bus_bits 8192
copy_engines 3
pci_device 0x290110DE
pci_subsystem 0x199910DE
pcie_generation 5
pcie_width 16
p2p_pcie 1
nvlink_links 18
nvlink_version 5.0
nvlink_mb_s 53125
ecc on
memory_repair rows
power_idle_mw 140000
power_min_mw 200000
power_limit_mw 1000000
power_max_mw 1000000
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
mig 1g.23gb 19 0 1 7 22400 18 2 1 0 1 0 1 0,1,2,3,4,5,6
mig 1g.23gb+me 20 7 1 1 22400 18 2 1 0 1 1 1 0,1,2,3,4,5,6
mig 1g.45gb 15 9 1 4 45312 30 2 1 0 1 0 2 0,2,4,6
mig 2g.45gb 14 1 2 3 45312 36 3 1 0 1 0 2 0,2,4
mig 3g.90gb 9 2 3 2 91136 70 6 1 0 1 0 4 0,4
mig 4g.90gb 5 3 4 1 91136 72 8 1 0 1 0 4 0
mig 7g.180gb 0 4 7 1 182784 148 16 1 0 1 1 8 0
