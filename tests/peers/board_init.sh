#!/usr/bin/busybox sh
# Process 1 of the QEMU board: what a small Linux does at start.
export PATH=/usr/sbin:/usr/bin
/usr/bin/busybox --install -s /usr/bin 2> /dev/null
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs run /run
for module in $(cat /lib/modules/order); do insmod "/lib/modules/$module"; done
hostname -F /etc/hostname
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
libraries=/usr/lib/aarch64-linux-gnu
LD_LIBRARY_PATH=$libraries/android:$libraries ADBD_PORT=5555 HOME=/root setsid adbd > /run/adbd.log 2>&1 &
convert=$(command -v dropbearconvert || echo /usr/lib/dropbear/dropbearconvert)
"$convert" openssh dropbear /etc/dropbear/openssh_key /etc/dropbear/key
setsid dropbear -F -E -s -r /etc/dropbear/key -p 22 > /run/dropbear.log 2>&1 &
echo "BOARD-UP $(cat /proc/uptime)"
# `reboot` asks process 1, as everywhere; without -f it would not hear
trap 'reboot -f' TERM
# process 1 stays and buries whom nobody else does
while :; do wait; sleep 1; done
