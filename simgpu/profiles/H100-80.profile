# NVIDIA H100 SXM5 80 GB.
name NVIDIA H100 80GB HBM3
architecture hopper
brand nvidia
vbios 96.00.74.00.01
memory_mib 81558
context_mib 520
bar1_mib 131072
l2_kib 51200
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
memory_clock_khz 2619000
memory_bus_bits 5120
copy_engines 3
pci_device 0x233010DE
pci_subsystem 0x16C110DE
pcie_generation 5
pcie_width 16
p2p_pcie 1
nvlink_links 18
nvlink_version 4.0
nvlink_mb_s 26562
ecc on
memory_repair rows
power_idle_mw 70000
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
mig 1g.10gb 19 0 1 7 9984 16 1 1 0 1 0 1 0,1,2,3,4,5,6
mig 1g.10gb+me 20 7 1 1 9984 16 1 1 0 1 1 1 0,1,2,3,4,5,6
mig 1g.20gb 15 9 1 4 20096 26 1 1 0 1 0 2 0,2,4,6
mig 2g.20gb 14 1 2 3 20096 32 2 2 0 2 0 2 0,2,4
mig 3g.40gb 9 2 3 2 40448 60 3 3 0 3 0 4 0,4
mig 4g.40gb 5 3 4 1 40448 64 4 4 0 4 0 4 0
mig 7g.80gb 0 4 7 1 81152 132 8 7 0 7 1 8 0
